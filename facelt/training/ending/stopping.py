"""Requests to stop: by a signal, or because the launcher that would pass signals on is gone.

The standard library alone, and the heartbeat: it listens before torch is imported. A thread hears the signals, so that
they are heard while the main thread waits in a collective too.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from facelt.parallel import heartbeat
from facelt.parallel.heartbeat import AGAIN
from recordio_tools.command_line import INTERRUPTED

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
EVERY = 1.0  # seconds between two looks at the launcher
_PR_SET_PDEATHSIG = 1
_LAUNCHER = "deepspeed.launcher.launch"
_STARTERS = ("deepspeed", "facelt-train", "facelt.launch", "sshd")  # what users start it by; sshd: on other hosts


class StopRequest:
    """SIGTERM, SIGUSR1 (as Slurm sends before the end), Ctrl-C, a terminal that closes, or a launcher that is gone.

    While steps are done (`heeded`) a request is noted, for all ranks to agree on: save and stop. Otherwise there is
    nothing to save: the process ends at once, with status AGAIN. A second Ctrl-C ends it at once in any case.

    asked: whether this rank was asked to stop while steps were done.
    """

    def __init__(self) -> None:
        self.asked, self._stepping, self._over = False, False, False
        self._interrupts = 0
        self._launcher = _launcher()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        heard = [
            n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN
        ]  # nohup keeps it out
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in heard}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="stopping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear nothing any more: signals do what they did before."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While steps are done that a checkpoint can save."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def finished(self) -> None:
        """The run is at its end: a request changes nothing any more."""
        self._over = True

    def _listen(self) -> None:
        while True:
            readable, _, _ = select.select([self._read], [], [], EVERY)
            numbers = os.read(self._read, 64) if readable else b""
            if readable and not numbers:
                return
            for number in numbers:
                if number in SIGNALS:
                    self._ask(signal.Signals(number))
            if not self.asked and _gone(self._launcher):
                self._launcher = ()
                self._ask(None)

    def _ask(self, number: signal.Signals | None) -> None:
        why = "its launcher is gone" if number is None else "Ctrl-C" if number == signal.SIGINT else number.name
        self._interrupts += number == signal.SIGINT
        if self._over or heartbeat.ending():
            return
        if self._interrupts > 1:
            self._leave(
                "Ctrl-C again: ended at once; run the same command to go on from the last checkpoint", INTERRUPTED
            )
        if not self._stepping:
            self._leave(f"{why} before a step: stopped; run the same command to go on", AGAIN)
        if not self.asked:
            again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            _say(f"{why}: saving and stopping{again}")
        self.asked = True

    def _leave(self, line: str, status: int) -> NoReturn:
        _say(line)
        heartbeat.leave(f"status {status}")
        os._exit(status)


def _say(line: str) -> None:
    """One line of rank 0, not behind a progress bar."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(f"\nfacelt.train: {line}", file=sys.stderr, flush=True)


_current: StopRequest | None = None


def listen() -> StopRequest:
    """Listen from now on to the end of the process."""
    global _current
    if _current is None:
        _current = StopRequest()
    return _current


@contextmanager
def listening() -> Iterator[StopRequest]:
    """What listens already, or what does within this block alone."""
    if _current is not None:
        yield _current
        return
    with contextlib.closing(StopRequest()) as stop:
        yield stop


KEPT_NOTHING, GOES_ON = "nothing unfinished is kept", "run the same command to go on"


def leave_in_one_line(command: str, kept: str = KEPT_NOTHING) -> None:
    """At SIGTERM or Ctrl-C leave the process through what cleans up; a second Ctrl-C ends it at once.

    For commands whose output appears whole or not at all. kept: what becomes of it, for the line that says so.
    """

    def leave(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            print(f"\n{command}: interrupted; {kept}", file=sys.stderr, flush=True)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def _launcher() -> tuple[tuple[int, int], ...]:
    """(process, its parent) pairs that hold while this rank's launcher lives; () where no launcher set RANK.

    DeepSpeed's is two processes deep: what the user started, and its child, which starts the ranks and outlives it. On
    another host a shell and the connection stand for what the user started.
    """
    if "RANK" not in os.environ:
        return ()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    child = os.getppid()
    pairs = [(os.getpid(), child)]
    while _LAUNCHER in _words(child):
        above = _parent(child)
        if above is None or not any(name in _words(above) for name in _STARTERS):
            break
        pairs.append((child, above))
        child = above
    return tuple(pairs)


def _gone(launcher: tuple[tuple[int, int], ...]) -> bool:
    return any((os.getppid() if child == os.getpid() else _parent(child)) != parent for child, parent in launcher)


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return None


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
