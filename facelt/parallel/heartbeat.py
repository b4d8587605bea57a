"""What each rank is doing, kept in a file a rank, so that a rank that hangs or dies is named by one that lives.

RUN/heartbeat/ holds, while a run trains: rank-00000.json (`Beat`), rewritten every second, and rank-00000.fatal, what
Python says of a segmentation fault and its like. The standard library alone: it is imported before all else.
"""

import faulthandler
import json
import os
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, NoReturn

from recordio_tools.command_line import complain

AGAIN = 75  # EX_TEMPFAIL of sysexits.h: ended by what may pass; the same command goes on
EVERY = 1.0  # seconds between two beats
SILENT = 4.0  # seconds after which a beat that did not change counts as none
START = 6  # a start may take as many times `stall_minutes`: compilation, a memory from class means
STALL_MINUTES = 5.0  # until the configuration is read
_SIZE = 1024  # bytes of a file: rewritten in place, in one call
_FOLLOWS = "ended for another rank, with "  # and "status 75": what a rank leaves that was not the first to go


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself.

    count: stages entered since its start, the same sequence on all ranks; the lowest is furthest behind. moves: these,
    and what shows that a long stage goes on, each rank for itself. beats: of the file. left: its last words, if it
    ended by itself: "status 2", or an exception in one line.
    """

    rank: int
    host: str
    pid: int
    stage: str = "start"
    step: int | None = None
    count: int = 0
    moves: int = 0
    beats: int = 0
    left: str = ""

    def __str__(self) -> str:
        step = "" if self.step is None else f" of step {self.step}"
        return f"rank {self.rank} (host {self.host}, pid {self.pid}), in stage {self.stage}{step}"


class Heartbeat:
    """This process's beats, and its watch over its own pace and the other ranks.

    stall_seconds: how long a stage may last once a step was done; the start has START times that.
    """

    def __init__(self, command: str, stall_seconds: float = 60 * STALL_MINUTES) -> None:
        rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
        self.command, self.stall_seconds = command, stall_seconds
        self.beat = Beat(rank, socket.gethostname(), os.getpid())  # its own stages; the file's counter is beside it
        self.since, self.stepped, self.moves = time.monotonic(), False, 0
        self._growing: tuple[Path, int, float] | None = None  # a file, its size, and since when it has that
        self._moved: dict[int, tuple[int, float]] = {}  # of the other ranks: their moves, and since when
        self._beats, self._left = 0, ""
        self.folder: Path | None = None
        self.ranks = 1
        self._files: list[IO[Any]] = []
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._ending = threading.Lock()  # whoever holds it says why the process ends
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()

    def mark(self, stage: str, step: int | None = None) -> None:
        """A stage begins: called by the main thread, alike on all ranks."""
        step = self.beat.step if step is None else step
        self.beat = replace(self.beat, stage=stage, step=step, count=self.beat.count + 1)
        self.move()

    def move(self) -> None:
        """The stage goes on: a part of it is done."""
        self.moves += 1
        self.since = time.monotonic()

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """While a file is written in one call, or flushed: it goes on as long as the file grows, and START times
        `stall_seconds` longer."""
        self.move()
        self._growing = path, -1, time.monotonic()
        try:
            yield
        finally:
            self._growing = None
            self.move()

    def _grow(self) -> None:
        """Whether a file that is being written has grown is a move, and that it may still is one too."""
        growing = self._growing
        if growing is None:
            return
        path, size, since = growing
        now = path.stat().st_size if path.is_file() else 0
        if now != size:
            growing = path, now, time.monotonic()
        elif time.monotonic() - since > START * self.stall_seconds:
            return
        if self._growing is not None:
            self._growing = growing
            self.move()

    def _idle(self) -> float:
        """Seconds since a rank has moved, this one or another: while one works the others wait for it."""
        now = time.monotonic()
        for beat in self.others():
            if self._moved.get(beat.rank, (-1, now))[0] != beat.moves:
                self._moved[beat.rank] = beat.moves, now
        return now - max([self.since, *(when for _, when in self._moved.values())])

    def keep_in(self, folder: Path, ranks: int, barrier: Callable[[], None]) -> None:
        """Beat in files from now on, where they can be written: a run that cannot be watched trains all the same. All
        ranks must call it."""
        if self.beat.rank == 0:
            with suppress(OSError):
                shutil.rmtree(folder, ignore_errors=True)
                folder.unlink(missing_ok=True)  # no folder at all
                folder.mkdir(parents=True)
        barrier()
        with suppress(OSError):
            fatal = (folder / f"rank-{self.beat.rank:05d}.fatal").open("w", encoding="utf-8")
            self._files += [(folder / f"rank-{self.beat.rank:05d}.json").open("wb", buffering=0), fatal]
            self._faults = faulthandler.is_enabled()
            faulthandler.enable(fatal)
            self.folder, self.ranks = folder, ranks
        self._write()
        barrier()

    def close(self, kept: bool = False) -> None:
        """The run is at its end: nothing is watched any more, the files go unless they hold last words."""
        self._closed.set()
        with self._writing:
            if self.folder is None:
                return
            faulthandler.disable()
            if self._faults and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)
            with suppress(OSError):
                for file in self._files:
                    file.close()
                    if not kept:
                        Path(file.name).unlink(missing_ok=True)
                if not kept:
                    self.folder.rmdir()
            self.folder = None

    def leave(self, words: str) -> None:
        """The last words of this rank, before it ends by itself."""
        self._left = " ".join(words.split())[:300]
        self._write()

    def others(self) -> list[Beat]:
        """The last beats of the other ranks; of those that never wrote one, nothing."""
        return [beat for rank in range(self.ranks) if rank != self.beat.rank and (beat := self._read(rank)) is not None]

    def gone(self) -> list[tuple[Beat, str]]:
        """The ranks that have ended, or give no sign of life: with what is known of it ("" for one that said so).

        Those that ended for the sake of others come last.
        """
        before = {beat.rank: beat.beats for beat in self.others()}
        deadline = time.monotonic() + SILENT
        while True:
            late = time.monotonic() >= deadline
            dead = {beat.rank for beat in self.others() if self._dead(beat)}
            beats = self.others()  # read after that: a rank writes its last words, then ends
            if found := [beat for beat in beats if beat.left or beat.rank in dead]:
                found.sort(key=lambda beat: beat.left.startswith(_FOLLOWS))
                return [(beat, "" if beat.left else self._cause(beat)) for beat in found]
            if late:
                return [(beat, "gives no sign of life") for beat in beats if beat.beats == before.get(beat.rank)]
            time.sleep(0.1)

    @contextmanager
    def last_words(self) -> Iterator[None]:
        """Around all of a rank's work: an end by its own fault is noted first, one by another's in one line."""
        try:
            yield
        except SystemExit as leaving:
            self.leave(f"status {leaving.code or 0}")
            raise
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if self._of_a_collective(words) and (gone := self.gone()):
                self._end_for(gone)
            self.leave(words)
            self._say(f"{self.beat}, ended by {words}")
            raise

    def _of_a_collective(self, words: str) -> bool:
        return self.ranks > 1 and any(name in words.lower() for name in ("gloo", "nccl", "dist", "connection", "peer"))

    def _end_for(self, gone: list[tuple[Beat, str]]) -> NoReturn:
        """End for the sake of ranks that are gone; the first of those that live to say so names them."""
        self._ending.acquire()
        said = gone[0][0].left.removeprefix(_FOLLOWS).removeprefix("status ")
        status = int(said) if said.isdigit() else 1 if said else AGAIN
        self.leave(f"{_FOLLOWS}status {status}")
        named = [(beat, cause) for beat, cause in gone if cause]
        if named and self._claims("gone"):
            for beat, cause in named:
                self._say(f"{beat}, {cause}; the run ends: run the same command to go on from the last checkpoint")
        time.sleep(EVERY / 2)  # a launcher ends all ranks when one leaves: let the speaker speak
        self._exit(status)

    def _dead(self, beat: Beat) -> bool:
        return beat.host == self.beat.host and state(beat.pid) in ("", "Z", "X")

    def _cause(self, beat: Beat) -> str:
        folder = self.folder
        with suppress(OSError):
            words = folder and (folder / f"rank-{beat.rank:05d}.fatal").read_text(encoding="utf-8").splitlines()
            if words:
                return f"died: {words[0]}"
        return "was killed without a last word (SIGKILL, as the kernel does where memory is short)"

    def _watch(self) -> None:
        while not self._closed.wait(EVERY):
            with suppress(OSError):
                self._grow()
            self._write()
            ended = {beat.rank for beat in self.others() if self._dead(beat)}
            dead = [(beat, self._cause(beat)) for beat in self.others() if beat.rank in ended and not beat.left]
            if dead and not self._closed.wait(2 * EVERY) and not self._ending.locked():
                self._end_for(dead)  # NCCL would wait on
            allowed = self.stall_seconds * (1 if self.stepped else START)
            if self._idle() > allowed:
                self._stalled(allowed)

    def _stalled(self, allowed: float) -> None:
        """Name the rank that all wait for, and end the run."""
        before = {beat.rank: beat.beats for beat in self.others()}
        self._closed.wait(SILENT)
        if self._closed.is_set() or self._idle() < allowed or self._ending.locked():
            return
        self._ending.acquire()
        self._write()
        beats = [self.beat, *self.others()]
        silent = [beat for beat in beats[1:] if beat.beats == before.get(beat.rank)]
        behind = silent or [beat for beat in beats if beat.count == min(other.count for other in beats)]
        if self._claims("stall"):
            for beat in sorted(behind, key=lambda beat: beat.rank):
                words = {"T": "stopped by a signal", "D": "waiting for a disk"}.get(
                    state(beat.pid) if beat.host == self.beat.host else "", "without a sign of life" if silent else ""
                )
                self._say(
                    f"{beat}, has not moved for {allowed / 60:.3g} minutes{words and ', ' + words}; the run ends: "
                    "run the same command to go on from the last checkpoint"
                )
            if self.beat in behind:
                self._show_stack()
        else:
            if self.beat in behind:
                self._show_stack()
            time.sleep(2 * EVERY)
        self._exit(AGAIN)

    def _claims(self, what: str) -> bool:
        """Whether this rank is the first to see it (a "stall", a rank that is "gone"), and so the one to speak."""
        if self.folder is None:
            return True
        try:
            (self.folder / what).touch(exist_ok=False)
        except OSError as error:
            return not isinstance(error, FileExistsError)
        return True

    def _show_stack(self) -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else "  unknown\n"
        print(f"rank {self.beat.rank} stands at:\n{stack}", file=sys.stderr, end="", flush=True)

    def _say(self, text: str) -> None:
        print(file=sys.stderr)  # not behind a progress bar
        complain(text, self.command)

    def _exit(self, status: int) -> NoReturn:
        sys.stderr.flush()
        os._exit(status)

    def _write(self) -> None:
        """A full disk or a folder that has vanished ends no run."""
        with self._writing, suppress(OSError, ValueError):
            if self.folder is not None:
                self._beats += 1
                beat = replace(self.beat, moves=self.moves, beats=self._beats, left=self._left)
                os.pwrite(self._files[0].fileno(), json.dumps(asdict(beat)).encode().ljust(_SIZE), 0)

    def _read(self, rank: int) -> Beat | None:
        folder = self.folder  # which `close` may take away meanwhile
        with suppress(OSError, ValueError, TypeError):
            return folder and Beat(**json.loads((folder / f"rank-{rank:05d}.json").read_bytes()))
        return None


def state(pid: int) -> str:
    """The letter that Linux has for a process: R, S, D, T, Z …; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        with suppress(OSError):
            if not Path("/proc/self").exists():
                os.kill(pid, 0)
                return "?"
        return ""


_current: Heartbeat | None = None


def begin(command: str) -> Heartbeat:
    """The heartbeat of this process, begun at the first call."""
    global _current
    if _current is None:
        _current = Heartbeat(command)
    return _current


@contextmanager
def kept(command: str) -> Iterator[Heartbeat]:
    """The heartbeat of this process, around all of its work."""
    global _current
    beat, well = begin(command), False
    try:
        with beat.last_words():
            yield beat
        well = True
    finally:
        beat.close(kept=not well)
        _current = None


def mark(stage: str, step: int | None = None) -> None:
    """A stage of this rank begins, where a heartbeat is kept. All ranks must call it alike."""
    if _current is not None:
        _current.mark(stage, step)


def move() -> None:
    """The stage of this rank goes on, where a heartbeat is kept: what is long says so part by part."""
    if _current is not None:
        _current.move()


def writing(path: Path) -> AbstractContextManager[None]:
    """Around a write or a flush of a file in one call, where a heartbeat is kept."""
    return nullcontext() if _current is None else _current.writing(path)


def allow(minutes: float) -> None:
    """How long a stage may last, where a heartbeat is kept."""
    if _current is not None:
        _current.stall_seconds = 60 * minutes


def settle(stepped: bool) -> None:
    """Whether a step was done since the start, so that from now on a stage may last `stall_seconds` and no longer."""
    if _current is not None:
        _current.stepped = stepped


def ending() -> bool:
    """Whether this process is about to end for another rank's sake."""
    return _current is not None and _current._ending.locked()


def leave(words: str) -> None:
    """The last words of this rank, where a heartbeat is kept."""
    if _current is not None:
        _current.leave(words)
