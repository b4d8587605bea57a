"""Outputs that are there whole or not at all: written beside their place, then renamed into it."""

import ctypes
import glob
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recordio_tools.format.recordio import RecordError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def refuse_existing(target: Path | str, force: bool) -> None:
    """Raise RecordError (kind `exists`) when there is a `target` already and `force` is not set."""
    if os.path.lexists(target) and not force:
        raise RecordError("exists already; choose another name or give --force", path=target, kind="exists")


@contextmanager
def output_folder(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    Raises RecordError (kind `exists`) at once when `target` exists and `force` is not set. An existing folder is
    exchanged in one step where the system can (Linux), so that a killed writer leaves the old folder or the new one.
    What a killed writer left beside `target` on this host is removed by the next.
    """
    with _beside(target, force) as partial:
        partial.mkdir()
        yield partial


@contextmanager
def output_file(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """The same for a single file: the block writes the path that it is given."""
    with _beside(target, force) as partial:
        yield partial


@contextmanager
def _beside(target: Path | str, force: bool) -> Iterator[Path]:
    target = Path(os.path.abspath(target))
    refuse_existing(target, force)
    if target in (cwd := Path.cwd(), *cwd.parents):
        raise RecordError(
            "holds the working folder, which --force will not replace; choose another", path=target, kind="exists"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    partial = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        refuse_existing(target, force)  # it may have come meanwhile
        _put_in_place(partial, target)
    finally:
        _remove(partial)


def _put_in_place(partial: Path, target: Path) -> None:
    if not os.path.lexists(target):
        os.rename(partial, target)
    elif partial.is_file() and target.is_file():
        os.replace(partial, target)
    elif not _exchange(partial, target):
        aside = partial.with_name(partial.name.removesuffix(".partial") + "-old.partial")
        os.rename(target, aside)
        os.rename(partial, target)
        _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{socket.gethostname()}.*.partial"):
        process = leftover.name.split(".")[-3]
        if process.isdigit() and not _alive(int(process)):
            _remove(leftover)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
