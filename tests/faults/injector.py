"""Runs of facelt.train with a fault at a chosen seam of a save, or at a chosen moment.

All ranks are forked from one process that has imported everything: a run takes the time of its steps. Seams are
numbered in the order in which a rank comes by them; a run without a fault lists them. The seams of a save: before and
after every file is written, and with half of it written; before and after every fsync, rename, exchange and removal.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launching import free_port

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["facelt.train", "injector"])
TIMEOUT = 120  # seconds of a run
WHOLE = os.environ.get("FACELT_FAULTS") == "whole"  # as `make faults` asks for


@dataclass(frozen=True)
class Fault:
    """signal `what` to rank `rank`: at its seam number `seam`, or so many seconds after its first metrics line."""

    rank: int
    seam: int | None = None
    seconds: float | None = None
    what: int = signal.SIGKILL


@dataclass(frozen=True)
class Outcome:
    """Of a run: exit status and standard error of every rank (a signal's number, negative), seams that each came by."""

    statuses: list[int]
    said: list[str]
    seams: list[list[str]]


def run(arguments: list[str], ranks: int, folder: Path, fault: Fault | None = None) -> Outcome:
    """facelt.train on so many ranks, to its end. folder: for what ranks say and which seams they come by."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    processes = [CONTEXT.Process(target=_rank, args=(i, ranks, port, arguments, folder, fault)) for i in range(ranks)]
    for process in processes:
        process.start()
    if fault is not None and fault.seconds is not None:
        _await_metrics(Path(arguments[arguments.index("--output") + 1]) / "metrics.jsonl", processes)
        time.sleep(fault.seconds)
        pid = processes[fault.rank].pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, fault.what)
    deadline = time.monotonic() + TIMEOUT
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    hung = [process for process in processes if process.exitcode is None]
    for process in hung:
        process.kill()
        process.join()
    said = [(folder / f"said-{i}").read_text() for i in range(ranks)]
    assert not hung, f"{len(hung)} of {ranks} ranks hung: {said}"
    seams = [path.read_text().splitlines() if (path := folder / f"seams-{i}").exists() else [] for i in range(ranks)]
    return Outcome([process.exitcode or 0 for process in processes], said, seams)


def _await_metrics(path: Path, processes: list[Any]) -> None:
    while any(process.is_alive() for process in processes):
        if path.exists() and path.stat().st_size:
            return
        time.sleep(0.01)


def _rank(rank: int, ranks: int, port: int, arguments: list[str], folder: Path, fault: Fault | None) -> None:
    said = os.open(folder / f"said-{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    from facelt import train
    from facelt.parallel import group

    mine = fault if fault is not None and fault.rank == rank else None
    _Seams(folder / f"seams-{rank}", mine).put_in_place()
    sys.exit(group.as_process(lambda: train.main(arguments)))


class _Seams:
    """Counts the seams that this process comes by, notes them, and at the fault's sends its signal to itself."""

    def __init__(self, path: Path, fault: Fault | None) -> None:
        self.path, self.fault, self.count = path, fault, 0

    def put_in_place(self) -> None:
        from facelt.run_folder import checkpoint
        from recordio_tools import atomic

        for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree"), (atomic, "_exchange")):
            setattr(module, name, self.around(name, getattr(module, name)))
        fsync, save = os.fsync, checkpoint.save_file
        os.fsync = self.around("fsync", fsync, lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
        checkpoint.save_file = self.around("write", self.halved(save), lambda tensors, path, *_: path)
        Path.write_text = self.around("write", Path.write_text)  # pyright: ignore[reportAttributeAccessIssue]

    def halved(self, save: Callable[..., None]) -> Callable[..., None]:
        """Saves, with a seam at which half of the file is there."""

        def inner(tensors: Any, path: Path, *more: Any) -> None:
            save(tensors, path, *more)
            if self.ours(path):
                whole = Path(path).read_bytes()
                Path(path).write_bytes(whole[: len(whole) // 2])
                self.seam(f"inside write {Path(path).name}")
                Path(path).write_bytes(whole)

        return inner

    def around(
        self, name: str, function: Callable[..., Any], path_of: Callable[..., Any] = lambda path, *_: path
    ) -> Any:
        def inner(*args: Any, **options: Any) -> Any:
            path = path_of(*args)
            if not self.ours(path):
                return function(*args, **options)
            self.seam(f"before {name} {Path(path).name}")
            answer = function(*args, **options)
            self.seam(f"after {name} {Path(path).name}")
            return answer

        return inner

    @staticmethod
    def ours(path: Any) -> bool:
        """Whether a path belongs to a checkpoint, or is the folder that checkpoints lie in."""
        return "step-" in str(path) or Path(str(path)).name in ("plain", "meta")

    def seam(self, name: str) -> None:
        with self.path.open("a") as file:
            file.write(name + "\n")
        if self.fault is not None and self.fault.seam == self.count:
            os.kill(os.getpid(), self.fault.what)
        self.count += 1


def spread(seams: int, wanted: int) -> Iterator[int]:
    """Numbers of so many seams, spread over all of them."""
    return (i * seams // wanted + seams // (2 * wanted) for i in range(wanted))
