"""Checkpoints that are saved once and load at any number of ranks.

A run keeps RUN/<stage>/step-00001234/:
    model.safetensors        the replicated network, torchvision's names under "backbone."
    moments.safetensors      what the optimizer remembers of it, "<parameter>.<moment>"
    classes-00000-of-00002.safetensors …   consecutive class rows of every sharded tensor and of its moments, one file
                             per saving rank
    state.json               `CheckpointState`
A reader takes the rows it owns from whichever files hold them. A checkpoint appears by a rename, whole or not at all.
"""

import itertools
import json
import re
import shutil
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from facelt.config import FACE_PIXELS, STAGES, FaceltConfig, StageName, in_one_line
from facelt.errors import UserError
from facelt.parallel import group
from facelt.parallel.partition import Partition
from recordio_tools.atomic import output_folder

FORMAT = 2
KEPT = 2
_NAME = re.compile(r"step-(\d{8,})")


class CheckpointState(BaseModel):
    """What state.json holds: where the run stood, and what it was.

    step: steps done. finished: whether the stage is at its end. global_batch: images of a step. scalars: what the
    margin and the loss scale remember. starts: the first class of each classes-….safetensors.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[2] = FORMAT
    stage: StageName
    step: Annotated[int, Field(ge=0)]
    finished: bool
    global_batch: Annotated[int, Field(gt=0)]
    config: FaceltConfig
    scalars: dict[str, float] = {}
    num_classes: Annotated[int, Field(gt=0)]
    starts: list[int]

    @field_validator("starts")
    @classmethod
    def _in_order(cls, starts: list[int]) -> list[int]:
        if not starts or starts[0] != 0 or any(one >= other for one, other in itertools.pairwise(starts)):
            raise ValueError(f"{starts} are no first classes of ranks, from 0 on and ascending")
        return starts


def save(
    run: Path,
    state: CheckpointState,
    *,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    rows: dict[str, Tensor],
) -> Path:
    """Write RUN/<stage>/step-N, all ranks together, and drop all but the last two of the stage.

    Args:
        run: folder of the run.
        state: with a start for each rank.
        weights: of the replicated network, the same on all ranks; rank 0 writes them.
        moments: what the optimizer remembers of it, likewise.
        rows: this rank's class rows, moments included.

    Returns:
        The folder.
    """
    final, chief = run / state.stage / f"step-{state.step:08d}", group.rank() == 0
    with ExitStack() as stack:
        begun: list[Path] = []

        def begin() -> None:
            _remove_drafts(final.parent)
            begun.append(stack.enter_context(output_folder(final, force=True)))

        group.on_rank_0(begin)
        draft = group.share(begun[0] if chief else final)

        def write() -> None:
            _save(rows, draft / _shard(group.rank(), len(state.starts)))
            if chief:
                _save(weights, draft / "model.safetensors")
                _save(moments, draft / "moments.safetensors")
                (draft / "state.json").write_text(json.dumps(state.model_dump(), indent=1), encoding="utf-8")

        group.together(write)  # every file is there before the folder takes its place
    if chief:
        for old in _checkpoints(final.parent)[:-KEPT]:
            shutil.rmtree(old)
    group.barrier()
    return final


def latest(run: Path, stage: StageName) -> Path | None:
    """The newest checkpoint of a stage of a run, or None."""
    return next(reversed(_checkpoints(run / stage)), None)


def find(path: str | Path) -> Path:
    """The checkpoint that a user means: a checkpoint folder, a stage's folder, or a run (meta before plain).

    Raises UserError where there is none.
    """
    path = Path(path)
    if (path / "state.json").is_file():
        return path
    candidates = [*_checkpoints(path)[-1:], *(latest(path, stage) for stage in reversed(STAGES))]
    found = next((c for c in candidates if c is not None), None)
    if found is None:
        raise UserError(f"{path}: no checkpoint there; expected a run of facelt/train.py, or one of its step folders")
    return found


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first; what has another name is none."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def _remove_drafts(folder: Path) -> None:
    """Drop what killed writers left of checkpoints, of any step."""
    for draft in folder.glob(".step-*"):
        shutil.rmtree(draft, ignore_errors=True)


def read_state(folder: Path) -> CheckpointState:
    """state.json of a checkpoint. Raises UserError when it is missing, damaged or of another format."""
    try:
        state: Any = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: unreadable checkpoint ({error}); delete it to go back to the one before") from None
    found = state.get("format") if isinstance(state, dict) else state
    if found != FORMAT:
        raise UserError(f"{folder}: checkpoint format {found}; expected {FORMAT}: it is of another version of facelt")
    block = state.get("config")
    if isinstance(block, dict):
        block = {**FACE_PIXELS, **block}  # what every run took before there was a choice
    try:
        config = FaceltConfig.model_validate(block)
    except ValidationError as error:
        raise UserError(f"{folder}: its configuration is not one of this version: {in_one_line(error)}") from None
    try:
        return CheckpointState.model_validate({**state, "config": config})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{folder}: state.json: {where}: {first['msg'].lower()}; delete the folder to go back to the one before"
        ) from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The replicated network's tensors."""
    return _load(folder / "model.safetensors")


def read_moments(folder: Path) -> dict[str, Tensor]:
    """The replicated network's optimizer moments."""
    return _load(folder / "moments.safetensors")


def read_rows(folder: Path, partition: Partition, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The rows of class-sharded tensors that this rank owns, whatever number of ranks saved them.

    names: the tensors that are wanted, as far as the checkpoint has them; None: all, moments included.
    Raises UserError when the checkpoint has another number of classes.
    """
    state = read_state(folder)
    if state.num_classes != partition.num_classes:
        raise UserError(
            f"{folder}: trained on {state.num_classes} classes, the data has {partition.num_classes}; "
            "give the data it was trained on, or another --output"
        )
    start, stop = partition.bounds()
    pieces: dict[str, list[Tensor]] = {}
    for i, (first, end) in enumerate(itertools.pairwise([*state.starts, state.num_classes])):
        if first < stop and start < end:
            with _open(folder / _shard(i, len(state.starts))) as file:
                for name in file.keys():  # noqa: SIM118
                    if names is None or name in names:
                        rows = file.get_slice(name)[max(start, first) - first : min(stop, end) - first]
                        pieces.setdefault(name, []).append(rows)
    return {name: torch.cat(parts) for name, parts in pieces.items()}


def _shard(rank: int, ranks: int) -> str:
    return f"classes-{rank:05d}-of-{ranks:05d}.safetensors"


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(_on_cpu(tensors), path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error}); make room and run the same command to resume") from error


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that own their memory: a view into a larger buffer is copied, nothing else is."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return {name: t.clone() if t.untyped_storage().nbytes() != t.nbytes else t for name, t in state.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: unreadable ({error}); delete {path.parent} to go back to the one before")
