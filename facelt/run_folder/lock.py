"""One run on an output at a time: RUN/lock, held by rank 0 with flock, and a beat for file systems without it.

The file says who holds it (JSON: host, pid, started); its time is the last beat. A lock is stale, and taken over, when
its process is gone from this host, or another host's beat has stopped. flock reaches over NFS only from version 4 on
and only where the server allows it; elsewhere the beat alone tells.
"""

import fcntl
import json
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from facelt.errors import UserError
from facelt.parallel import group

BEAT = 20.0  # seconds between two beats
STALE = 180.0  # seconds without a beat after which a holder on another host is gone
NAME = "lock"


class Holder(BaseModel):
    """Who holds a lock: host name, process, and when it took it (ISO 8601, local)."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    started: str


class Lock:
    """Of the folder of a run, from its making until `release` or the end of the process.

    Raises UserError, naming the holder, where another process has it. Waits where it cannot tell whether a holder on
    another host still lives, STALE seconds at most.
    """

    def __init__(self, run: Path, taken: str | None = None) -> None:
        """taken: what a refusal begins with; None: that another run trains here."""
        self._path, self._made = run / NAME, not run.exists()
        alone = self._open()
        try:
            holder = read_holder(run)
            if not alone or (holder is not None and self._lives(holder)):
                taken = taken or f"{run}: another run trains here"
                raise UserError(f"{taken}, {_who(holder)}; wait for it, or give another --output")
            if holder is not None:
                group.say(f"{run}: taking over from {_who(holder)}, which is gone")
            self._sign()
        except BaseException:
            os.close(self._file)
            raise
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def _open(self) -> bool:
        """Open the file and flock it: False where another process holds it."""
        while True:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f"{self._path}: cannot be written ({error.strerror}); give another --output") from None
            alone = self._flock()
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                    return alone
            os.close(self._file)  # its holder removed it in between: what was locked is no longer there

    def _flock(self) -> bool:
        """False where another process holds it. True also where the file system has no flock: see `_lives`."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            self._has_flock = False
        else:
            self._has_flock = True
        return True

    def _lives(self, holder: Holder) -> bool:
        if holder.host == socket.gethostname():
            return not self._has_flock and holder.pid != os.getpid() and _alive(holder.pid)
        last = os.fstat(self._file).st_mtime_ns
        age = self._clock() - last / 1e9
        if age > STALE:
            return False
        until = time.monotonic() + min(STALE, STALE - age)
        group.say(f"{self._path}: held by {_who(holder)}; watching for {STALE:.0f} s whether it still lives")
        while time.monotonic() < until:
            time.sleep(min(1.0, STALE / 10))
            try:
                if os.stat(self._path).st_mtime_ns != last:
                    return True
            except FileNotFoundError:  # it has just come to its end
                os.close(self._file)
                return not self._open()
        return False

    def _clock(self) -> float:
        """The time by the clock of whoever keeps the files, whose the beats are: hosts' own may differ by minutes."""
        probe = self._path.with_name(f".{NAME}-{os.getpid()}")
        try:
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
        except OSError:
            return time.time()
        return now

    def _sign(self) -> None:
        holder = Holder(
            host=socket.gethostname(), pid=os.getpid(), started=datetime.now().astimezone().isoformat(" ", "seconds")
        )
        with suppress(OSError):  # a full disk: flock holds all the same
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(holder.model_dump()).encode() + b"\n", 0)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Let go of it, and leave no new folder where nothing was written; twice is once."""
        if not self._over.is_set():
            self._over.set()
            with suppress(OSError):
                self._path.unlink()
                if self._made:
                    self._path.parent.rmdir()
            os.close(self._file)


def read_holder(run: Path) -> Holder | None:
    """Who holds the lock of a run as its file says, dead or alive; None where nobody does."""
    try:
        return Holder.model_validate_json((run / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return None


def is_alive(run: Path, holder: Holder) -> bool:
    """Whether the holder of a lock seems to live, without touching it."""
    if holder.host == socket.gethostname():
        return _alive(holder.pid)
    try:
        return time.time() - (run / NAME).stat().st_mtime <= STALE
    except OSError:
        return False


def _who(holder: Holder | None) -> str:
    if holder is None:
        return "which has not said who it is"
    return f"process {holder.pid} on {holder.host}, since {holder.started}"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True
