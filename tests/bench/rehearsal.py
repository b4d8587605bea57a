"""A dress rehearsal: the whole way from images to identification at the size of MS1M-LT, on a machine without a GPU.

    python tests/bench/rehearsal.py --folder DIR [--only draw curate …] [--scale 1.0]

Parts, each a few minutes on two cores, whose outputs stay in the folder: a part that is done is not done again, and the
trainings resume where they stopped. Prints seconds by the clock and of the processor, the largest memory of all
processes of a part together, and what its outputs take on disk.

    draw      two pictures of 32 x 32 of each of 85,742 identities
    source    a set of about 1,775,000 images of them, with a tail that leaves about 74.5K identities below
    curate    887,500 of them by reading `proportional`
    plain     50 steps of 256 images on two ranks, ResNet-10 of width 8, and a checkpoint
    meta      memory from class means over all images, 50 steps, and a checkpoint
    strangers probes of 80 people, and a million images of other people
    extract   features of probes and training images
    gallery   features of the strangers
    identify  the probes among a million, with pseudo-shot counts over the training images, and the report

Drawn at 32 x 32, which is what `synth` and a small network take at such numbers: of each identity two pictures are
drawn, and its images are these in turn; of the million strangers each picture stands for ten. Where ranks count, equal
pictures tie; time, memory and disk do not depend on it.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from tqdm import tqdm

from recordio_tools.atomic import output_file
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.sources.synthetic import write_synthetic

ROOT = Path(__file__).parents[2]
IDENTITIES, IMAGES, KEPT = 85_742, 1_775_000, 887_500
STRANGERS, PROBE_PEOPLE, PROBE_IMAGES = 1_000_000, 80, 44
SPREAD = 0.71  # sigma of the log-normal tail; with it the curated set keeps about 74.5K identities
PICTURES, TURNS = 2, 10
SIDE, BATCH, STEPS, RANKS = 32, 256, 50, 2
PARTS = "parts.json"


def tail(images: int, identities: int) -> np.ndarray:
    """Images of each identity, int64[identities], at least two, log-normal; about `images` in all."""
    shares = np.random.default_rng(0).lognormal(0, SPREAD, identities)
    return np.clip(np.rint(shares * images / shares.sum()), 2, 9 * images / identities).astype(np.int64)


def repeated(pictures: Path, out: Path, counts: np.ndarray) -> None:
    """A set in which identity k has counts[k] images, its pictures in turn."""
    source = RecordDataset(pictures)
    first = np.searchsorted(source.labels, np.arange(len(counts) + 1))
    with DatasetWriter(out, len(counts), source.image_size, force=True) as writer:
        for label in tqdm(range(len(counts)), desc=out.name, unit="identity", delay=1):
            jpegs = [bytes(source.jpeg(row)) for row in range(first[label], first[label + 1])]
            for image in range(counts[label]):
                writer.add(jpegs[image % len(jpegs)], label)


class Rehearsal:
    """The parts, each a method, in one folder. scale: of all numbers of images and identities."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder, self.scale = folder, scale

    def scaled(self, number: int) -> int:
        return max(1, round(number * self.scale))

    def command(self, *arguments: object) -> None:
        """Run a command of the packages; its lines go to commands.log."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if not shutil.which("nvidia-smi"):
            environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        with open(self.folder / "commands.log", "a", encoding="utf-8") as log:
            log.write(" ".join(map(str, arguments)) + "\n")
            log.flush()
            subprocess.run(
                [*map(str, arguments)], cwd=ROOT, env=environment, check=True, stdout=log, stderr=subprocess.STDOUT
            )

    def python(self, module: str, *arguments: object) -> None:
        self.command(sys.executable, "-m", module, *arguments)

    def draw(self) -> None:
        counts = np.full(self.scaled(IDENTITIES), PICTURES)
        write_synthetic(self.folder / "pictures", counts, size=SIDE, force=True)

    def source(self) -> None:
        counts = tail(self.scaled(IMAGES), self.scaled(IDENTITIES))
        repeated(self.folder / "pictures", self.folder / "source", counts)

    def curate(self) -> None:
        source, kept = self.folder / "source", self.scaled(KEPT)
        self.python("recordio_tools", "curate", source, self.folder / "train", "--images", kept, "--force")

    def plain(self) -> None:
        self._train("plain")

    def meta(self) -> None:
        self._train("meta")

    def _train(self, stage: str) -> None:
        epochs = STEPS * BATCH / self.scaled(KEPT)
        block = {
            "image_size": SIDE,
            "embedding_size": 64,
            "backbone": {"name": "resnet10", "width": 8},
            "plain": {"epochs": epochs},
            "meta": {"epochs": epochs, "images_per_class": 4},
            "log_every": 10,
            "loader_threads": 1,
        }
        sgd = {"type": "SGD", "params": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}}
        ds = {"train_batch_size": BATCH, "optimizer": sgd, "steps_per_print": 10**9, "facelt": block}
        config = self.folder / "ds.json"
        config.write_text(json.dumps(ds, indent=1), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher = Path(sys.executable).with_name("deepspeed")
        start = [launcher, "--num_gpus", RANKS, "--master_port", port, "facelt/train.py", "--deepspeed_config", config]
        self.command(*start, "--data", self.folder / "train", "--output", self.folder / "run", "--stage", stage)

    def strangers(self) -> None:
        first, people = self.scaled(IDENTITIES), self.scaled(STRANGERS // PICTURES // TURNS)
        write_synthetic(
            self.folder / "probes", np.full(PROBE_PEOPLE, PROBE_IMAGES), size=SIDE, first_identity=first, force=True
        )
        pictures = self.folder / "stranger_pictures"
        write_synthetic(pictures, np.full(people, PICTURES), size=SIDE, first_identity=first + PROBE_PEOPLE, force=True)
        counts = np.bincount(np.arange(self.scaled(STRANGERS)) % people)
        repeated(pictures, self.folder / "strangers", counts)

    def extract(self) -> None:
        self._extract("probes", "train")

    def gallery(self) -> None:
        self._extract("strangers")

    def _extract(self, *names: str) -> None:
        for name in names:
            how = ("--embedding", "direct", "--batch", 256, "--threads", 1, "--force")
            self.python(
                "facelt.extract", "--checkpoint", self.folder / "run", "--data", self.folder / name,
                "--output", self.folder / "features" / name, *how,
            )  # fmt: skip

    def identify(self) -> None:
        features = self.folder / "features"
        self.python(
            "megaface_eval.run", "--gallery", self.scaled(STRANGERS), "--probes", features / "probes",
            "--distractors", features / "strangers", "--train", features / "train",
            "--output", self.folder / "report", "--force",
        )  # fmt: skip


# Each part, and what it leaves behind.
OUTPUTS = {
    "draw": ["pictures"],
    "source": ["source"],
    "curate": ["train"],
    "plain": ["run/plain"],
    "meta": ["run/meta"],
    "strangers": ["probes", "stranger_pictures", "strangers"],
    "extract": ["features/probes", "features/train"],
    "gallery": ["features/strangers"],
    "identify": ["report"],
}


class Cost(NamedTuple):
    """Of a part: seconds by the clock and of the processor, most memory of all its processes, and bytes on disk."""

    seconds: float
    processor: float
    memory: int
    disk: int

    def line(self, name: str) -> str:
        return (
            f"{name:10} {self.seconds:7.1f} s ({self.processor:7.1f} s of processor)  "
            f"peak {self.memory / 1e9:5.2f} GB  disk {self.disk / 1e6:8,.1f} MB"
        )


class Watched:
    """Processor time and largest memory of this process and of those that it starts, sampled while it is open.

    Memory is the proportional share (PSS), so that what processes have in common counts once.
    """

    def __enter__(self) -> "Watched":
        self.memory, self._over = 0, threading.Event()
        self._clock, self._begun = time.perf_counter(), _processor()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.5):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it has ended
            self.memory = max(self.memory, total)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.seconds, self.processor = time.perf_counter() - self._clock, _processor() - self._begun


def _processor() -> float:
    """Seconds of processor of this process and of all its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def run(folder: Path, scale: float, only: list[str] | None = None, say: Callable[[str], None] = print) -> dict:
    """Do what is not done yet; the costs of all parts that are, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / PARTS
    done: dict[str, list] = json.loads(record.read_text()) if record.is_file() else {}
    rehearsal = Rehearsal(folder, scale)
    for name, outputs in OUTPUTS.items():
        if name not in done and (only is None or name in only):
            with Watched() as watched:
                getattr(rehearsal, name)()
            disk = sum(bytes_of(folder / output) for output in outputs)
            done[name] = [watched.seconds, watched.processor, watched.memory, disk]
            with output_file(record, force=True) as draft:
                draft.write_text(json.dumps(done, indent=1))
        if name in done:
            say(Cost(*done[name]).line(name))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where everything is kept; about 4 GB")
    parser.add_argument("--only", nargs="+", choices=OUTPUTS, help="parts to do now, the ones before being done")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of images and identities")
    args = parser.parse_args()
    run(args.folder.resolve(), args.scale, args.only)
    print(f"{args.folder}: {bytes_of(args.folder) / 1e9:.2f} GB in all")


if __name__ == "__main__":
    main()
