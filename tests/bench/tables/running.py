"""An arm trained and read: what it says of every image, and who is found among distractors.

N: known images, M: strangers' images, P: probes.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelt import evaluate, extract, train
from facelt.open_world.readings.reading import Columns
from facelt.parallel import group
from facelt.run_folder import checkpoint
from recordio_tools.dataset import RecordDataset
from tests.bench.tables import sets
from tests.bench.tables.arms import ARMS, Arm

SIGNALS = {
    "memory": "memory.score",
    "plda": "plda.score",
    "openmax": "openmax.known",
}  # of strangers; else the highest softmax


@dataclass(frozen=True)
class Budget:
    """epochs: of the plain stage, and of the arm after it. seed: of both."""

    epochs: int
    seed: int

    @property
    def folder(self) -> str:
        return f"epochs-{self.epochs}/seed-{self.seed}"


class Stopped(Exception):
    """A run that was asked to stop."""


class Diverged(Exception):
    """A run whose loss or gradients did not stay finite, at this rate."""


def configuration(arm: Arm, budget: Budget, rate: float) -> dict[str, Any]:
    """The DeepSpeed JSON of an arm's stage, or of the plain stage before it."""
    shape = {"epochs": budget.epochs, "decay_every": budget.epochs * 3 / 4, "lr_scale": rate}
    block = dict(arm.block)
    own = dict(block.get(arm.stage, {}))
    if "class_aware_from" in own:  # as a share of the stage
        own["class_aware_from"] *= budget.epochs
    block[arm.stage] = {**shape, **own}
    return {
        "train_batch_size": 64,
        "optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
        "steps_per_print": 10**9,
        **({} if arm.clipping is None else {"gradient_clipping": arm.clipping}),
        "facelt": {
            "seed": budget.seed,
            "image_size": 64,
            "embedding_size": 64,
            "backbone": {"name": "resnet10", "width": 16, "neck": "batch_norm"},
            "checkpoint_every": 10**6,
            **block,
        },
    }


def result(arm: Arm, name: str, budget: Budget, rate: float, folder: Path) -> Columns:
    """Train and read an arm, or what is kept of it in the folder. Raises Diverged where the training ends early."""
    out = path_of(name, budget, rate, folder)
    if (out / "result.npz").exists():
        with np.load(out / "result.npz") as kept:
            found = dict(kept)
        if all(f"{reading}.class" in found for reading in arm.reads):
            return found
        return keep({**found, **answers(arm, out, folder)}, out)
    if (out / "diverged").exists():
        raise Diverged(out)
    shutil.rmtree(out, ignore_errors=True)
    start = folder / budget.folder / "start"
    train_stage(configuration(Arm(), budget, 1), "plain", start, folder)
    if arm.after is not None:
        result(ARMS[arm.after], arm.after, budget, rate, folder)
        start = path_of(arm.after, budget, rate, folder)
    try:
        # Of a plain stage that goes on: other orders of the same images.
        other = budget if arm.stage != "plain" else Budget(budget.epochs, budget.seed + 1000)
        train_stage(configuration(arm, other, rate), arm.stage, out, folder, start)
    except SystemExit:
        (out / "diverged").touch()
        raise Diverged(out) from None
    return keep({**answers(arm, out, folder), **rank_1(arm, out, folder)}, out)


def keep(found: Columns, out: Path) -> Columns:
    """What an arm says, in its folder."""
    with writing(out / "result.npz") as path:
        np.savez(path, **found)  # pyright: ignore[reportArgumentType]
    return found


def path_of(name: str, budget: Budget, rate: float, folder: Path) -> Path:
    """Where an arm is kept."""
    slug = "".join(c if c.isalnum() or c == "." else "-" for c in f"{name} at {rate:g}")
    return folder / budget.folder / slug


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file that is there whole or not at all."""
    draft = path.with_name(f"draft-{path.name}")
    yield draft
    draft.replace(path)


def train_stage(ds: dict, stage: str, out: Path, folder: Path, start: Path | None = None) -> None:
    """Train, go on with, or leave as it is. Raises SystemExit where it ends early, Stopped where it was asked to."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "ds.json").write_text(json.dumps(ds), encoding="utf-8")
    arguments = ["--deepspeed_config", str(out / "ds.json"), "--data", str(folder / "train"), "--output", str(out)]
    if status := train.main([*arguments, "--stage", stage, *(["--start-from", str(start)] if start else [])]):
        raise SystemExit(status)
    if not checkpoint.read_state(checkpoint.find(out)).finished:
        raise Stopped(f"{out}: stopped as asked; the same command goes on")


def answers(arm: Arm, out: Path, folder: Path) -> Columns:
    """READING.class, .probability, .signal of the known images, and open.READING.… of the strangers'."""
    given = ["--checkpoint", str(out), "--train", str(folder / "train"), "--data", str(folder / "known")]
    given += ["--open", str(folder / "strangers"), "--read", *arm.reads, "--output", str(out / "unwritten")]
    args = evaluate.arguments().parse_args(given)
    evaluate.settle(args)
    opened = evaluate.open_sets(args)
    opened.check()
    _, (known, strangers) = evaluate.read_run(args, opened, group.join())
    found: Columns = {}
    for reading in arm.reads:
        signal = SIGNALS.get(reading, f"{reading}.probability")
        for prefix, columns in (("", known), ("open.", strangers)):
            found |= {f"{prefix}{reading}.{part}": columns[f"{reading}.{part}"] for part in ("class", "probability")}
            found[f"{prefix}{reading}.signal"] = columns[signal]
    return found


def rank_1(arm: Arm, out: Path, folder: Path) -> Columns:
    """rank1.EMBEDDING.SET: whether each probe's nearest other image, distractors included, shows the same person.

    Embeddings: direct; of a meta run also meta, and control, which is meta with the memory's mean for its content.
    """
    found: Columns = {}
    asked = {"direct": ["direct"], "meta": ["meta"], "control": ["meta", "--memory", "mean"]}
    reads_memory = arm.stage == "meta" and arm.block.get("head", {}).get("memory", True)
    names = ["direct"] + (["meta"] if arm.stage == "meta" else []) + (["control"] if reads_memory else [])
    for name in names:
        data = [str(folder / one) for one in ("strangers", "orl", "distractors")]
        given = ["--checkpoint", str(out), "--data", *data, "--output", str(out / "features"), "--force"]
        if status := extract.main([*given, "--embedding", *asked[name]]):
            raise SystemExit(status)
        rows = {one: unit(np.load(out / "features" / one / "features.npy")) for one in ("strangers", "orl")}
        distractors = unit(np.load(out / "features" / "distractors" / "features.npy"))
        labels = RecordDataset(folder / "strangers").labels
        for part, of in sets.parts(folder).items():
            found[f"rank1.{name}.{part}"] = hits(rows["strangers"][of.open_M], labels[of.open_M], distractors)
        found[f"rank1.{name}.orl"] = hits(rows["orl"], RecordDataset(folder / "orl").labels, distractors)
    shutil.rmtree(out / "features")
    return found


def unit(rows: NDArray) -> NDArray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hits(probes_PD: NDArray, labels_P: NDArray, distractors: NDArray) -> NDArray[np.bool_]:
    """Whether the most similar other image, of probes and distractors, is of the same person."""
    among_PP = probes_PD @ probes_PD.T
    np.fill_diagonal(among_PP, -np.inf)
    right_P = labels_P[among_PP.argmax(1)] == labels_P
    return right_P & (among_PP.max(1) > (probes_PD @ distractors.T).max(1))
