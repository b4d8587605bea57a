"""A whole step of training against the same forward pass, backward pass and update alone; and what a long run holds.

python tests/bench/trainer.py [--image 112] [--batch 16] [--steps 12] [--flat 1800]

Both sides take turns in one process, a step each, in processor time of all its threads. Whole: DALI, engine, head,
telemetry at every step, agreement, watch. Bare: torch alone, on tensors in memory. ZeRO 0 and 1, one rank.
--flat: so many steps of both stages on small images with everything switched on: checkpoints, validation, an image that
does not decode, Weights & Biases where it is installed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from facelt import train
from facelt.config import FaceltConfig
from facelt.network.embedder import Embedder
from facelt.training.telemetry import Telemetry
from recordio_tools.__main__ import main as recordio
from recordio_tools.dataset import RecordDataset

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
CLASSES, EACH = 8, 8
WARM_UP = 3
TARGET = 1.05  # times the bare step, at most


def drawn(folder: Path, image: int, *more: str) -> Path:
    """A set of drawn faces."""
    sizes = ["--identities", str(CLASSES), "--images", str(CLASSES * EACH), "--size", str(image), "--workers", "1"]
    assert recordio(["synth", str(folder), *sizes, *more]) == 0
    return folder


def recipe(folder: Path, image: int, batch: int, steps: int, zero: int) -> Path:
    """A stage plain of so many steps, with ResNet-18."""
    block = {
        "image_size": image,
        "embedding_size": 64,
        "log_every": 1,
        "loader_threads": 1,
        "backbone": {"name": "resnet18" if image > 32 else "resnet10", "width": 64 if image > 32 else 8},
        "plain": {"epochs": steps * batch / (CLASSES * EACH)},
        "checkpoint_every": 10**9,
    }
    ds = {"optimizer": {"type": "SGD", "params": SGD}, "steps_per_print": 10**9, "facelt": block}
    ds |= {"train_batch_size": batch, "zero_optimization": {"stage": zero}}
    path = folder / f"zero{zero}.json"
    path.write_text(json.dumps(ds))
    return path


def everything(folder: Path, steps: int) -> list[str]:
    """The command line of a run of so many small steps a stage, with all that may be switched on."""
    data = drawn(folder / "small", 32)
    dataset = RecordDataset(data)
    offset = (data / "train.rec").read_bytes().index(dataset.jpeg(5).tobytes())
    with (data / "train.rec").open("r+b") as records:
        records.seek(offset)
        records.write(bytes(64))  # an image that does not decode
    path = recipe(folder, 32, 8, steps, 0)
    ds = json.loads(path.read_text())
    epochs = ds["facelt"]["plain"]["epochs"]
    ds["facelt"] |= {"meta": {"epochs": epochs, "images_per_class": 2}, "checkpoint_every": 50, "keep_last": 3}
    known = {"known": str(drawn(folder / "known", 32, "--first-image", "100"))}
    held = {"strangers": str(drawn(folder / "held", 32, "--first-identity", "100"))}
    ds["facelt"]["validation"] = {**known, **held, "every": 100, "unit": "steps", "share": 1.0}
    ds["facelt"]["telemetry"] = {"wandb": find_spec("wandb") is not None}
    path.write_text(json.dumps(ds))
    return ["--deepspeed_config", str(path), "--data", str(data), "--output", str(folder / "flat")]


def print_held(run: Path) -> None:
    """What each stage of a run held along its way, by its own reports."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for stage in ("plain", "meta"):
        mine = [line for line in lines if line["stage"] == stage and "memory_gib" in line]
        if not mine:
            continue  # it was stopped before
        for part in (0.1, 0.25, 0.5, 0.75, 1):
            line = mine[int(part * (len(mine) - 1))]
            print(
                f"{stage}, step {line['step']}: {line['memory_gib']:.4f} GiB, {line['open_files']:.0f} open files, "
                f"{line['unreadable']:.0f} unreadable"
            )
        later = mine[len(mine) // 4 :]
        slope = np.polyfit([line["step"] for line in later], [line["memory_gib"] * 2**20 for line in later], 1)[0]
        print(f"{stage}: {slope:+.2f} KiB a step over the last three quarters (target: none, within the allocator's)")


def bare_step(path: Path, batch: int) -> Callable[[], None]:
    """Forward, backward and update of the recipe's network and a linear classifier, in torch alone."""
    ds = json.loads(path.read_text())
    config = FaceltConfig.model_validate(ds["facelt"])
    embedder = Embedder(config, meta=False).train()
    weight = torch.nn.Parameter(torch.randn(CLASSES, config.embedding_size) * 0.01)
    optimizer = torch.optim.SGD([*embedder.parameters(), weight], **ds["optimizer"]["params"], fused=True)
    images, labels = torch.randn(batch, 3, config.image_size, config.image_size), torch.arange(batch) % CLASSES

    def step() -> None:
        cross_entropy(embedder(images).direct_BD @ weight.T, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def measure(folder: Path, data: Path, path: Path, batch: int) -> tuple[list[float], list[float]]:
    """Seconds of whole and of bare steps, which take turns: after every step of the trainer comes a bare one."""
    step, whole, bare = bare_step(path, batch), [], []
    since = time.process_time()
    advance = Telemetry.advance

    def with_a_bare_step(self: Telemetry) -> None:
        nonlocal since
        advance(self)
        whole.append(time.process_time() - since)
        began = time.process_time()
        step()
        since = time.process_time()
        bare.append(since - began)

    Telemetry.advance = with_a_bare_step
    try:
        arguments = ["--deepspeed_config", str(path), "--data", str(data), "--output", str(folder / path.stem)]
        train.main([*arguments, "--stage", "plain"])
    finally:
        Telemetry.advance = advance
    return whole[WARM_UP:], bare[WARM_UP:]


def main() -> None:
    """Print the ratios, and what a long run of small steps holds along its way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=int, default=112)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--flat", type=int, default=0, metavar="STEPS", help="small steps of each stage, 0: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = drawn(folder / "data", args.image)
        for zero in (0, 1) if args.steps else ():
            path = recipe(folder, args.image, args.batch, args.steps + WARM_UP, zero)
            whole, bare = measure(folder, data, path, args.batch)
            ratios = [one / other for one, other in zip(whole, bare, strict=True)]
            print(
                f"ZeRO {zero}, {args.image} px, batch {args.batch}: {statistics.median(ratios):.3f} x the bare step, "
                f"target {TARGET} ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} pairs; bare "
                f"{statistics.median(bare):.3f} s)"
            )
        if args.flat:
            os.environ.setdefault("WANDB_MODE", "offline")
            train.main(everything(folder, args.flat))
            print_held(folder / "flat")


if __name__ == "__main__":
    main()
