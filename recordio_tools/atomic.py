"""Outputs that are there whole or not at all: written beside their place, flushed to disk, then renamed into it.

A killed writer leaves what was there before or the new output, never a part of one. Beside it stays its unfinished
`.NAME.HOST.PROCESS.RANDOM.partial`, which the next writer of the same output on that host removes.
"""

import ctypes
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from recordio_tools.errors import UserError

MANY_FILES = 100  # above it, one flush of the file system: an fsync for each of 5,000 small files takes seconds
PROBE_BYTES = 4096
_PARTIAL, _OLD = ".partial", "-old.partial"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # what only a write answers, without naming the file
_NUMPY_FULL = re.compile(r"Not enough free space to write|\d+ requested and \d+ written")  # its OSErrors have no errno
_FOLDERS_CANNOT_FLUSH = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP}  # on some file systems


def check_writable(target: Path | str, *, force: bool = False, folder: bool | None = None, space: int = 0) -> None:
    """Refuse at once what could not be written in the end; asked before hours of work.

    Args:
        target: the output; its parent folders may be missing, they are made when it is written.
        force: an existing target may be replaced.
        folder: True for an output that is a folder, False for a file, None where that is not known yet.
        space: bytes that the output will take up.

    Raises:
        UserError: the target exists and `force` is not set, it is a file where a folder is to be or the reverse, it
            holds the working folder, or its place is no folder, is not writable or has no space.
    """
    _refuse_existing(target, force, folder)
    path = _absolute(target)
    place = next((parent for parent in path.parents if os.path.lexists(parent)), path.parent)
    free = _try_to_write(target, place)
    if free < space:
        raise UserError(
            f"{target}: needs {space:,} bytes, {free:,} are free in {place}; make room or choose another place"
        )


def check_usable(folder: Path | str) -> None:
    """Refuse at once a folder that is to be written into, whether it is there or not, where that cannot be.

    Raises:
        UserError: it is a file, or it or its place is not writable or has no space.
    """
    path = _absolute(folder)
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder, or a new name: choose another")
    _try_to_write(folder, next((place for place in (path, *path.parents) if os.path.lexists(place)), path))


def _try_to_write(target: Path | str, place: Path) -> int:
    """Write a folder with a file in an existing place and remove it again. Bytes that are free there."""
    path = _absolute(target)
    probe = place / _partial_name(path)
    try:
        probe.mkdir()
        (probe / (path.name or "root")).write_bytes(bytes(PROBE_BYTES))
        return shutil.disk_usage(place).free
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        _remove(probe)


@contextmanager
def output_folder(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    An existing folder is exchanged in one step where the system can (Linux), else moved aside for the moment between
    two renames. Its files are on disk before that, whatever then becomes of the machine.

    Raises:
        UserError: at once what `check_writable` refuses; later, that the output could not be written or put in place.
    """
    with _beside(target, force, folder=True) as partial:
        yield partial


@contextmanager
def output_file(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """The same for a single file: the block writes the path that it is given."""
    with _beside(target, force, folder=False) as partial:
        yield partial


@contextmanager
def explained(target: Path | str) -> Iterator[None]:
    """An OSError within the block becomes a UserError: that this output cannot be written."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(target, error) from error


def put_folder(folder: Path, target: Path | str, *, force: bool = False) -> None:
    """A finished folder of the same file system takes the place of `target`, whole, once it is on disk.

    Whatever was at `target` (with `force`) is then at `folder`, or nowhere.

    Raises:
        UserError: the target exists and may not be replaced, or cannot be written.
    """
    _refuse_existing(target, force, folder=True)
    with explained(target):
        _flush_all(folder)
        _put_in_place(folder, _absolute(target))


@contextmanager
def scratch_folder(target: Path | str) -> Iterator[Path]:
    """A new folder beside `target` that vanishes with the block: for work whose result then becomes the output.

    Raises UserError where it cannot be made.
    """
    path = _absolute(target)
    folder = path.with_name(_partial_name(path))
    try:
        with explained(target):
            folder.mkdir(parents=True)
        yield folder
    finally:
        _remove(folder)


@contextmanager
def _beside(target: Path | str, force: bool, folder: bool) -> Iterator[Path]:
    """Messages name `target` as it was given."""
    path = _absolute(target)
    _clear_leftovers(path)
    check_writable(target, force=force, folder=folder)
    partial = path.with_name(_partial_name(path))
    try:
        with explained(target):
            path.parent.mkdir(parents=True, exist_ok=True)
            if folder:
                partial.mkdir()
        try:
            yield partial
        except OSError as error:
            if _is_full(error) or str(partial) in f"{error.filename} {error.filename2}":
                raise _cannot_write(target, error) from error
            raise  # not about this output
        _refuse_existing(target, force, folder)  # it may have come meanwhile
        with explained(target):
            _flush_all(partial)
            _put_in_place(partial, path)
    finally:
        _remove(partial)


def _absolute(target: Path | str) -> Path:
    """Symbolic links stay as they are: a link is replaced, not what it leads to."""
    return Path(os.path.abspath(target))


def _partial_name(target: Path) -> str:
    return f"{_partial_prefix(target)}.{os.getpid()}.{secrets.token_hex(4)}{_PARTIAL}"


def _partial_prefix(target: Path) -> str:
    """Target and host. Long names are shortened: the whole must not be longer than 255 bytes."""
    name = target.name
    if len(name) > 40:
        name = name[:30] + hashlib.sha256(os.fsencode(name)).hexdigest()[:10]
    return f".{name}.{socket.gethostname()}"


def _refuse_existing(target: Path | str, force: bool, folder: bool | None) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise UserError(f"{target}: exists already; choose another name or give --force")
    if _absolute(target) in (cwd := Path.cwd(), *cwd.parents):
        raise UserError(f"{target}: holds the working folder, which --force will not replace; choose another")
    if os.path.ismount(target):
        raise UserError(f"{target}: is a mount point, which --force cannot replace; choose a name in it")
    if folder is not None and os.path.isdir(target) != folder:
        given, output = ("file", "folder") if folder else ("folder", "file")
        raise UserError(f"{target}: is a {given}, which --force will not replace with a {output}; choose another name")


def _cannot_write(target: Path | str, error: OSError) -> UserError:
    remedy = "make room or choose another place" if _is_full(error) else "choose another place"
    return UserError(f"{target}: cannot be written ({error.strerror or error}); {remedy}")


def _is_full(error: OSError) -> bool:
    return error.errno in _FULL or (error.errno is None and _NUMPY_FULL.match(str(error)) is not None)


def _flush_all(path: Path) -> None:
    """A file, or a folder with all that is in it, to disk. Raises OSError, also for a write that failed unnoticed."""
    many = path.is_dir() and len(list(islice(path.rglob("*"), MANY_FILES + 1))) > MANY_FILES
    if many and _flush_file_system(path):
        return
    for inside in path.rglob("*"):
        if not inside.is_symlink():
            flush(inside)
    flush(path)


def flush(path: Path) -> None:
    """A file or folder to disk, as far as its file system can. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _FOLDERS_CANNOT_FLUSH):
            raise


def _flush_file_system(path: Path) -> bool:
    """All of the file system that holds a path; False where the system cannot."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return syncfs(descriptor) == 0
    finally:
        os.close(descriptor)


def _put_in_place(partial: Path, target: Path) -> None:
    aside = None
    if not (partial.is_dir() and os.path.lexists(target)):
        os.replace(partial, target)
    elif not _exchange(partial, target):
        aside = partial.with_name(partial.name.removesuffix(_PARTIAL) + _OLD)
        os.rename(target, aside)
        try:
            os.rename(partial, target)
        except BaseException:
            os.rename(aside, target)
            raise
    flush(target.parent)
    if aside is not None:
        _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _clear_leftovers(target: Path) -> None:
    """Remove what killed writers of `target` on this host left, and put back what one had only moved aside."""
    for leftover, process in _drafts(target):
        if _alive(process):
            continue
        if leftover.name.endswith(_OLD) and not os.path.lexists(target):
            os.rename(leftover, target)
        else:
            _remove(leftover)


def _drafts(target: Path) -> Iterator[tuple[Path, int]]:
    """What writers of `target` on this host have beside it, and the process of each."""
    prefix = _partial_prefix(target)
    for draft in target.parent.glob(f"{glob.escape(prefix)}.*{_PARTIAL}"):
        named = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.\w+(-old)?{re.escape(_PARTIAL)}", draft.name)
        if named is not None:
            yield draft, int(named[1])


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file or folder; what cannot be removed stays, and spoils nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
