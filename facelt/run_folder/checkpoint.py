"""Checkpoints that are saved once and load at any number of ranks.

A run keeps RUN/<stage>/step-00001234/:
    model.safetensors        the replicated network; the names of its authors under "backbone."
    moments.safetensors      what the optimizer remembers of it, "<parameter>.<moment>"
    classes-00000-of-00002.safetensors …   consecutive class rows of every sharded tensor and of its moments, one file
                             per saving rank
    state.json               `CheckpointState`
    step-00001234.damaged    a checkpoint that no longer was what had been written, set aside
A reader takes the rows it owns from whichever files hold them. A checkpoint appears by a rename, whole or not at all,
and state.json holds a hash of every file: whoever chooses a checkpoint takes the newest that is still whole. RUN/best
and RUN/<stage>/best, which lie nowhere on the disk, stand for the checkpoint that did best in validation.
"""

import itertools
import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from facelt.config import FACE_PIXELS, STAGES, FaceltConfig, StageName, in_one_line
from facelt.errors import UserError
from facelt.images.fingerprint import Fingerprint
from facelt.parallel import group, heartbeat
from facelt.parallel.partition import Partition
from facelt.run_folder import hashes
from facelt.run_folder.hashes import FileFacts
from recordio_tools.atomic import flush, output_folder

FORMAT = 2
MODEL, MOMENTS, STATE = "model.safetensors", "moments.safetensors", "state.json"
BEST = "best"
_NAME = re.compile(r"step-(\d{8,})")


class Damage(UserError):
    """A checkpoint is not what was written."""


class StageSource(BaseModel):
    """The plain checkpoint that a meta stage started from: its step, and the hash of its model.safetensors."""

    model_config = ConfigDict(frozen=True)

    step: int
    model: str


class CheckpointState(BaseModel):
    """What state.json holds: where the run stood, and what it was.

    step: steps done. finished: whether the stage is at its end. global_batch: images of a step. scalars: what the
    margin and the loss scale remember. starts: the first class of each classes-….safetensors. ds: DeepSpeed's part of
    the configuration. data: the set it trains on. source: what a meta stage started from. files: what each other file
    of the checkpoint is. figures: what validation measured of these very weights, empty where it did not. The last five
    are missing from what older versions wrote.
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
    ds: dict[str, Any] = {}
    data: Fingerprint | None = None
    source: StageSource | None = None
    files: dict[str, FileFacts] = {}
    figures: dict[str, float] = {}

    @field_validator("starts")
    @classmethod
    def _in_order(cls, starts: list[int]) -> list[int]:
        if not starts or starts[0] != 0 or any(one >= other for one, other in itertools.pairwise(starts)):
            raise ValueError(f"{starts} are no first classes of ranks, from 0 on and ascending")
        return starts


class Best(NamedTuple):
    """The checkpoint of a stage that did best: steps done, and the value of the figure that says so."""

    folder: Path
    step: int
    figure: str
    value: float


def save(
    run: Path,
    state: CheckpointState,
    *,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    rows: dict[str, Tensor],
) -> Path:
    """Write RUN/<stage>/step-N, all ranks together, and drop of the stage what need not be kept (see `tidy`).

    Args:
        run: folder of the run.
        state: with a start for each rank.
        weights: of the replicated network, the same on all ranks; rank 0 writes them.
        moments: what the optimizer remembers of it, likewise.
        rows: this rank's class rows, moments included.

    Returns:
        The folder.

    Raises:
        UserError: on all ranks, with the space that is needed: it could not be written. What was there before stays.
    """
    final = run / state.stage / f"step-{state.step:08d}"
    own = {_shard(group.rank(), len(state.starts)): rows}
    if group.rank() == 0:
        own |= {MODEL: weights, MOMENTS: moments}
    needed = sum(group.gather(sum(t.numel() * t.element_size() for tensors in own.values() for t in tensors.values())))
    try:
        _write(final, state, own)
    except UserError as error:
        raise UserError(f"{error}; a checkpoint takes {needed:,} bytes") from error
    group.on_rank_0(tidy, final.parent, state.config)
    return final


def _write(final: Path, state: CheckpointState, own: dict[str, dict[str, Tensor]]) -> None:
    """own: this rank's files. Each flushes its own to disk: another machine's are not rank 0's to flush."""
    with ExitStack() as stack:
        begun: list[Path] = []

        def begin() -> None:
            with _writing(final):
                _remove_drafts(final.parent)
                begun.append(stack.enter_context(output_folder(final, force=True)))

        group.on_rank_0(begin)
        draft = group.share(begun[0] if begun else final)

        def write() -> dict[str, FileFacts]:
            for name, tensors in own.items():
                with _writing(draft / name), heartbeat.writing(draft / name):
                    save_file(_on_cpu(tensors), draft / name)
                    flush(draft / name)
            with _writing(draft):
                return {name: hashes.measure(draft / name) for name in own}

        written = group.gather(group.together(write))
        files = {name: facts for part in written for name, facts in part.items()}

        def end() -> None:
            with _writing(final):
                content = hashes.sealed(state.model_copy(update={"files": files}).model_dump())
                (draft / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
                with heartbeat.writing(draft / STATE):
                    stack.close()  # every file is there before the folder, flushed, takes its place
                    flush(final.parent.parent)  # the stage's folder may be new

        group.on_rank_0(end)


def tidy(folder: Path, config: FaceltConfig) -> None:
    """Drop what killed writers left of a stage's folder, and all checkpoints but the last `keep_last`, the best, and
    those for good: every `keep_every`-th of those that `checkpoint_every` makes. What cannot be dropped stays.
    """
    _remove_drafts(folder)
    old_ones = _checkpoints(folder)[: -config.keep_last]
    best = _best(folder) if old_ones else None
    for old in old_ones:
        if best is not None and old == best.folder:
            continue
        if config.keep_every is None or _step(old) % (config.checkpoint_every * config.keep_every):
            doomed = old.with_name(f".{old.name}.old")  # half of a checkpoint must not look like one
            with suppress(OSError):
                old.rename(doomed)
                shutil.rmtree(doomed)


def latest(run: Path, stage: StageName) -> Path | None:
    """The newest checkpoint of a stage of a run, whole or not, or None."""
    return next(reversed(_checkpoints(run / stage)), None)


def best(run: Path, stage: StageName, figure: str | None = None) -> Best | None:
    """The checkpoint of a stage of a run, whole or not, that did best in validation; of equals the first.

    figure: that is judged by; None: by which the newest validated one was judged. None where none has it.
    """
    return _best(run / stage, figure)


def _best(folder: Path, figure: str | None = None) -> Best | None:
    found: list[tuple[Path, CheckpointState]] = []
    for candidate in _checkpoints(folder):
        with suppress(UserError):  # a damaged one is dealt with where one is chosen to go on from
            state = read_state(candidate)
            if state.figures:
                found.append((candidate, state))
    if not found:
        return None
    newest = found[-1][1]
    figure = figure or newest.config.validation.main_figure(newest.stage)
    bests = [Best(path, s.step, figure, s.figures[figure]) for path, s in found if figure and figure in s.figures]
    return max(bests, key=lambda one: one.value, default=None)


def _find_best(folder: Path) -> Path:
    """The best checkpoint of a stage's folder, or of the last stage of a run that has checkpoints."""
    stage = next((f for f in (folder, *(folder / s for s in reversed(STAGES))) if _checkpoints(f)), folder)
    found = group.share(_best(stage))
    if found is None:
        raise UserError(
            f"{folder / BEST}: no checkpoint in {stage} was measured on validation images; leave {BEST} out to take "
            "the newest, or train with facelt.validation"
        )
    return find(found.folder)


def newest_whole(run: Path, stage: StageName) -> Path | None:
    """The newest checkpoint of a stage that is whole, with a warning for each newer one; None where there are none.

    Nothing is changed. All ranks must call it. Raises UserError where there are some, and none of them is whole.
    """
    return _newest_whole(run / stage)


def _newest_whole(folder: Path) -> Path | None:
    found = group.share(_checkpoints(folder))
    for candidate in reversed(found):
        damage = find_damage(candidate)
        if damage is None:
            return candidate
        group.say(f"warning: {candidate} is damaged: {damage}; taking the one before")
    if found:
        raise UserError(f"{folder}: none of its {len(found)} checkpoints is whole; train the stage again")
    return None


def recover(run: Path, stage: StageName) -> Path | None:
    """The newest checkpoint of a stage that is whole, or None; newer ones are set aside, with a warning for each.

    All ranks must call it, and no other process may write the run.
    """
    while (newest := group.share(latest(run, stage))) is not None:
        damage = find_damage(newest)
        if damage is None:
            return newest
        group.say(f"warning: {newest} is damaged: {damage}; set aside as {newest.name}.damaged, taking the one before")
        group.on_rank_0(_set_aside, newest)
    return None


def was_damaged(run: Path, stage: StageName) -> bool:
    """Whether checkpoints of a stage were set aside."""
    return any((run / stage).glob("step-*.damaged*"))


def _set_aside(folder: Path) -> None:
    endings = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    names = (folder.with_name(f"{folder.name}.damaged{ending}") for ending in endings)
    try:
        folder.rename(next(name for name in names if not name.exists()))
    except OSError as error:
        raise UserError(f"{folder}: damaged, and cannot be set aside ({error.strerror}); move it away") from None


def find_damage(folder: Path, weights_alone: bool = False) -> str | None:
    """What is wrong with a checkpoint, in words; None for a whole one. All ranks must call it, and share the work.

    weights_alone: the class files may be missing, all of them.
    Raises UserError for what is no damage: a checkpoint of another version, files that may not be read.
    """
    return group.first_error(group.together(_damage_of_share, folder, weights_alone))


def _damage_of_share(folder: Path, weights_alone: bool) -> str | None:
    """What is wrong with a checkpoint, as far as this rank looks: its state, and every R-th file."""
    try:
        state = read_state(folder)
        if _NAME.fullmatch(folder.name) and state.step != _step(folder):
            return f"{STATE} is of step {state.step}"
        if folder.parent.name in STAGES and state.stage != folder.parent.name:
            return f"{STATE} is of stage {state.stage}"
        shards = [_shard(i, len(state.starts)) for i in range(len(state.starts))]
        if weights_alone and not any((folder / name).exists() for name in shards):
            shards = []
        mine = [MODEL, MOMENTS, *shards][group.rank() :: group.world_size()]
        for name in mine:
            if not (folder / name).is_file():
                return f"{name} is missing"
            if name not in state.files:
                _open(folder / name)  # of an older version: at least its length is what its head says
        known = [name for name in mine if name in state.files]
        return hashes.first_fault(folder, state.files, known, silent=group.rank() > 0)
    except Damage as damage:
        return str(damage).removeprefix(f"{folder}: ").removeprefix(f"{folder}/")
    except PermissionError as error:
        raise UserError(f"{error.filename}: may not be read ({error.strerror}); allow it") from None
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror or error})"


def find(path: str | Path) -> Path:
    """The checkpoint that a user means: a checkpoint folder, a stage's folder, or a run (meta before plain).

    Of several the newest whole one, with a warning for each newer; with "best" behind the folder the one that did best
    in validation. All ranks must call it.
    Raises UserError where there is none, or where the one that was named, or is the best, is damaged.
    """
    path = Path(path)
    if path.name == BEST and not path.exists():
        return _find_best(path.parent)
    if (path / STATE).is_file() or (_NAME.fullmatch(path.name) and path.is_dir()):
        damage = find_damage(path, weights_alone=True)
        if damage is not None:
            raise UserError(
                f"{path} is damaged: {damage}; name another, or the run, of which the newest whole is taken"
            )
        return path
    for folder in (path, *(path / stage for stage in reversed(STAGES))):
        if (found := _newest_whole(folder)) is not None:
            return found
    raise UserError(f"{path}: no checkpoint there; expected a run of facelt/train.py, or one of its step folders")


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first; what has another name is none."""
    found = (path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _remove_drafts(folder: Path) -> None:
    """Drop what killed writers left of checkpoints, of any step."""
    for draft in folder.glob(".step-*"):
        shutil.rmtree(draft, ignore_errors=True)


def read_state(folder: Path) -> CheckpointState:
    """state.json of a checkpoint. Raises Damage when it is missing or damaged, UserError when of another format."""
    try:
        state: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except PermissionError as error:
        raise UserError(f"{folder / STATE}: may not be read ({error.strerror}); allow it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Damage(f"{folder}: unreadable {STATE} ({error}); move the folder away") from None
    if isinstance(state, dict) and hashes.is_broken(state):
        raise Damage(f"{folder}: {STATE} is not what was written: its seal differs; move the folder away")
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
        raise Damage(f"{folder}: {STATE}: {where}: {first['msg'].lower()}; move the folder away") from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The replicated network's tensors."""
    return _load(folder / MODEL)


def read_moments(folder: Path) -> dict[str, Tensor]:
    """The replicated network's optimizer moments."""
    return _load(folder / MOMENTS)


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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
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


def _unreadable(path: Path, error: Exception) -> Damage:
    return Damage(f"{path}: unreadable ({error}); move {path.parent} away to go back to the one before")
