"""Checkpoints that are saved once and load at any number of ranks.

A run keeps RUN/<stage>/step-00001234/:
    model.safetensors        the replicated network, torchvision's names under "backbone."
    moments.safetensors      what the optimizer remembers of it
    classes-00000-of-00002.safetensors …   consecutive class rows of every sharded tensor, one file per saving rank
    state.json               format, stage, step, num_classes, first class of each file, configuration
A reader takes the rows it owns from whichever files hold them. A checkpoint appears by a rename, whole or not at all.
"""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from facelt.parallel import group
from facelt.parallel.partition import Partition

FORMAT = 2
KEYS = {"stage", "step", "finished", "num_classes", "starts"}
STAGES = ("plain", "meta")
KEPT = 2


def save(
    run: Path,
    state: dict[str, Any],
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    rows: dict[str, Tensor],
    partition: Partition,
) -> Path:
    """Write RUN/<stage>/step-N, all ranks together, and drop all but the last two of the stage.

    state: at least stage, step and finished. weights, moments: replicated, the same on all ranks; rank 0 writes them.
    rows: this rank's class rows. Returns the folder.
    """
    final = run / state["stage"] / f"step-{state['step']:08d}"
    draft = final.with_name(f".{final.name}.draft")
    ranks = partition.world_size
    if partition.rank == 0:
        for crashed in final.parent.glob(".step-*.draft"):
            shutil.rmtree(crashed)
        draft.mkdir(parents=True)
    group.barrier()
    save_file(_on_cpu(rows), draft / _shard(partition.rank, ranks))
    if partition.rank == 0:
        save_file(_on_cpu(weights), draft / "model.safetensors")
        save_file(_on_cpu(moments), draft / "moments.safetensors")
        starts = [partition.bounds(rank)[0] for rank in range(ranks)]
        state = {"format": FORMAT, **state, "num_classes": partition.num_classes, "starts": starts}
        (draft / "state.json").write_text(json.dumps(state, indent=1))
    group.barrier()
    if partition.rank == 0:
        for file in draft.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        for old in sorted(final.parent.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)
    group.barrier()
    return final


def latest(run: Path, stage: str) -> Path | None:
    """The newest checkpoint of a stage of a run, or None."""
    return max((run / stage).glob("step-*"), default=None)


def find(path: str | Path) -> Path:
    """The checkpoint that a user means: a checkpoint folder, a stage's folder, or a run (meta before plain).

    Raises ValueError where there is none.
    """
    path = Path(path)
    if (path / "state.json").is_file():
        return path
    candidates = [max(path.glob("step-*"), default=None), latest(path, "meta"), latest(path, "plain")]
    found = next((c for c in candidates if c is not None), None)
    if found is None:
        raise ValueError(f"{path}: no checkpoint there; expected a run of facelt/train.py, or one of its step folders")
    return found


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises ValueError when it is missing, damaged or of another format."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: unreadable checkpoint ({error}); delete it to go back to the one before") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not set(state) >= KEYS:
        found = state.get("format") if isinstance(state, dict) else state
        raise ValueError(f"{folder}: checkpoint format {found!r}; expected {FORMAT} with {', '.join(sorted(KEYS))}")
    return state


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The replicated network's weights and buffers."""
    return _load(folder / "model.safetensors")


def read_moments(folder: Path) -> dict[str, Tensor]:
    """The replicated network's optimizer moments."""
    return _load(folder / "moments.safetensors")


def read_rows(folder: Path, partition: Partition, with_moments: bool = True) -> dict[str, Tensor]:
    """The rows of every class-sharded tensor that this rank owns, whatever number of ranks saved them.

    with_moments: also the optimizer's moments. Raises ValueError when the checkpoint has another number of classes.
    """
    state = read_state(folder)
    if state["num_classes"] != partition.num_classes:
        raise ValueError(
            f"{folder}: trained on {state['num_classes']} classes, the data has {partition.num_classes}; "
            "give the data it was trained on, or another --output"
        )
    start, stop = partition.bounds()
    starts = [*state["starts"], state["num_classes"]]
    pieces: dict[str, list[Tensor]] = {}
    for i, (first, end) in enumerate(itertools.pairwise(starts)):
        if first < stop and start < end:
            with _open(folder / _shard(i, len(state["starts"]))) as file:
                for name in file.keys():  # noqa: SIM118
                    if with_moments or not name.endswith(".momentum_buffer"):
                        rows = file.get_slice(name)[max(start, first) - first : min(stop, end) - first]
                        pieces.setdefault(name, []).append(rows)
    return {name: torch.cat(parts) for name, parts in pieces.items()}


def _shard(rank: int, ranks: int) -> str:
    return f"classes-{rank:05d}-of-{ranks:05d}.safetensors"


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that own their memory: a view into a larger buffer is copied, nothing else is."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return {name: t.clone() if t.untyped_storage().nbytes() != t.nbytes else t for name, t in state.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: unreadable ({error}); delete {path.parent} to go back to the one before") from None


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: unreadable ({error}); delete {path.parent} to go back to the one before") from None
