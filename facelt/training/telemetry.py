"""What a run says: progress with loss, rate and time left; TensorBoard; JSON lines."""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import psutil
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from facelt.errors import UserError
from facelt.parallel import collectives, group
from facelt.training.schedule import Schedule
from facelt.training.wandb_log import WandbLog
from recordio_tools.atomic import output_file

# Reports in a row that must warn of one thing before it is said: a batch may be odd.
PATIENCE = 3
GIB = 2.0**30


@dataclass(frozen=True)
class Report:
    """What is said of a step.

    parts: this rank's share of each term of the loss. correct_B: whether this rank's images were classified right.
    figures: more numbers, the same on all ranks. warnings: kind -> what is wrong; each kind is said once, when it
    stands at PATIENCE reports in a row. waited: seconds that this rank has waited for images since the stage began.
    """

    step: int
    parts: dict[str, Tensor]
    correct_B: Tensor
    lr: float
    figures: dict[str, float] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    waited: float = 0.0


class Telemetry:
    """Progress of one stage. Only rank 0 shows and writes anything; all ranks must call `log` alike.

    run: folder for tensorboard/<stage> and metrics.jsonl. start_step: the stage's first in this process.
    wandb: whether Weights & Biases is told too.
    """

    def __init__(self, run: Path, stage: str, schedule: Schedule, start_step: int, wandb: bool = False) -> None:
        self.run, self.stage, self.global_batch = run, stage, schedule.global_batch
        self.chief = group.rank() == 0
        self.said: set[str] = set()
        self.in_a_row: dict[str, int] = {}
        self.since, self.since_step, self.waited = time.monotonic(), start_step, 0.0
        self.schedule, self.done, self.measured = schedule, start_step, {}
        self.bar = tqdm(
            total=schedule.steps * self.global_batch,
            initial=start_step * self.global_batch,
            desc=self._place(),
            unit="img",
            unit_scale=True,
            mininterval=1,
            disable=not self.chief,
        )
        self.wandb: WandbLog | None = None
        group.on_rank_0(self._open, start_step, wandb)

    def _open(self, start_step: int, wandb: bool) -> None:
        self.wandb = WandbLog(self.run, self.stage) if wandb else None
        self.writer: SummaryWriter | None = None
        with self._never_ends_a_run("TensorBoard's file"):
            self.writer = SummaryWriter(self.run / "tensorboard" / self.stage, purge_step=start_step)
        self.lines = _reopen(self.run / "metrics.jsonl", self.stage, start_step)

    def _place(self) -> str:
        """What the bar begins with: step of steps, epoch of epochs."""
        schedule = self.schedule
        epochs = schedule.knobs.epochs  # the last step may go beyond them
        epoch = min(epochs, self.done * self.global_batch / schedule.images)
        return f"{self.stage}: step {self.done:,}/{schedule.steps:,}, epoch {epoch:.1f}/{epochs:g}"

    def advance(self) -> None:
        """One step is done."""
        self.done += 1
        self.bar.set_description(self._place(), refresh=False)
        self.bar.update(self.global_batch)

    def log(self, report: Report) -> None:
        """Report a step: its shares are summed over ranks. What is not finite is null in metrics.jsonl."""
        step, correct_B = report.step, report.correct_B
        accuracy = correct_B.float().sum() / (correct_B.numel() * group.world_size())
        shares = torch.stack([*(p.float() for p in report.parts.values()), accuracy])
        now = dict(zip([*report.parts, "accuracy"], collectives.all_sum(shares).tolist(), strict=True))
        seconds = max(time.monotonic() - self.since, 1e-9)
        rate = (step + 1 - self.since_step) * self.global_batch / seconds
        data_wait = (report.waited - self.waited) / seconds
        self.since, self.since_step, self.waited = time.monotonic(), step + 1, report.waited
        if not self.chief:
            return
        self._warn(report)
        shown = {name: f"{value:.3g}" for name, value in (now | self.measured).items()}
        self.bar.set_postfix(shown | {"lr": f"{report.lr:.2g}"})
        now |= {**report.figures, "data_wait": data_wait, **resources()}
        self._tell({**now, "lr": report.lr, "images_per_second": rate}, step)
        finite = {name: value if math.isfinite(value) else None for name, value in now.items()}
        line = {"stage": self.stage, "step": step, "lr": report.lr, "rate": rate, **finite}
        with self._never_ends_a_run("metrics.jsonl"):
            _append(self.lines, json.dumps(line) + "\n")

    def validated(self, step: int, figures: dict[str, float], seconds: float, main: str | None) -> None:
        """Report what validation measured after a step, and the seconds that it took. main: the bar shows it."""
        self.since += seconds  # the rate is that of training
        if not self.chief:
            return
        self.measured = {name: value for name, value in figures.items() if name == main}
        self.say(step, in_words(figures))
        self._tell({f"validation/{name}": value for name, value in figures.items()}, step)
        line = {"stage": self.stage, "step": step, "validation": figures, "seconds": seconds}
        with self._never_ends_a_run("metrics.jsonl"):
            _append(self.lines, json.dumps(line) + "\n")

    def _tell(self, figures: dict[str, float], step: int) -> None:
        with self._never_ends_a_run("TensorBoard's file"):
            if self.writer is not None:
                for name, value in figures.items():
                    self.writer.add_scalar(name, value, step)
        if self.wandb is not None:
            with self._never_ends_a_run("the log of Weights & Biases"):
                self.wandb.log(figures, step)

    @contextmanager
    def _never_ends_a_run(self, what: str) -> Iterator[None]:
        """What is only said of a run may get lost: one warning for each file, and the run goes on."""
        try:
            yield
        except Exception as error:  # TensorBoard's thread hands on whatever it stumbled over
            if what not in self.said:
                self.said.add(what)
                self.bar.write(f"warning: {what} cannot be written ({error}); training goes on", file=sys.stderr)

    def _warn(self, report: Report) -> None:
        self.in_a_row = {kind: self.in_a_row.get(kind, 0) + 1 for kind in report.warnings}
        for kind, text in report.warnings.items():
            if self.in_a_row[kind] >= PATIENCE and kind not in self.said:
                self.said.add(kind)
                self.say(report.step, text)

    def say(self, step: int, text: str) -> None:
        """One line of a step, from rank 0, above the progress bar."""
        if self.chief:
            self.bar.write(f"stage {self.stage}, step {step}: {text}", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.chief:
            with self._never_ends_a_run("TensorBoard's file"):
                if self.writer is not None:
                    self.writer.close()
            with self._never_ends_a_run("metrics.jsonl"):
                self.lines.close()
        if self.wandb is not None:
            with self._never_ends_a_run("the log of Weights & Biases"):
                self.wandb.close()


def in_words(figures: dict[str, float]) -> str:
    """What validation measured, for people."""
    return "validation: " + ", ".join(f"{name} {100 * value:.2f} %" for name, value in figures.items())


def resources() -> dict[str, float]:
    """What this process holds: memory and, with CUDA, the most of the GPU's, in GiB; open files."""
    process = psutil.Process()
    held = {"memory_gib": process.memory_info().rss / GIB, "open_files": float(process.num_fds())}
    if torch.cuda.is_available():
        held["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
    return held


def _append(lines: BinaryIO, line: str) -> None:
    """A whole line or nothing of it: a part of one in the middle of the file would not be read again."""
    at, content = lines.seek(0, os.SEEK_END), line.encode()
    try:
        if lines.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        lines.truncate(at)
        raise


def _reopen(path: Path, stage: str, start_step: int) -> BinaryIO:
    """The file to append to, without the lines of steps that are done again: those after the last checkpoint."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error}); expected the lines of this run; move it away") from None
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            now = json.loads(line)
            again = now["stage"] == stage and now["step"] >= start_step
        except (ValueError, TypeError, LookupError):
            if number == len(lines):
                break  # torn by what ended the run: its step is done again
            raise UserError(f"{path}: line {number} is not of this run; mend it, or move the file away") from None
        if not again:
            kept.append(line)
    try:
        with output_file(path, force=True) as draft:
            draft.write_text("".join(kept), encoding="utf-8")
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error}); make room, or allow it") from None
