"""Files as memory maps."""

import mmap
from pathlib import Path

import numpy as np

from recordio_tools.format.recordio import RecordError


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file (uint8, read-only) as a memory map that forked processes share.

    Raises RecordError when the file is missing or empty.
    """
    if not path.is_file():
        raise RecordError("no such file", path=path, kind="missing")
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            raise RecordError("the file is empty", path=path, kind="empty")
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def release(data: np.ndarray) -> None:
    """Drop the pages of a map that were read so far, so that a pass over a large file does not fill memory.

    They stay in the system's cache. Does nothing for arrays that are no map.
    """
    owner = _owner(data)
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def read_ahead(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Have the system begin to read these ranges of a map (bytes, int64) from the disk, without waiting for them.

    What is in its cache already costs a microsecond or so a range. Does nothing for arrays that are no map.
    """
    owner = _owner(data)
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
        firsts = starts // mmap.PAGESIZE * mmap.PAGESIZE
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
            owner.madvise(mmap.MADV_WILLNEED, first, end - first)


def sliceable(data: np.ndarray) -> mmap.mmap | bytes | memoryview:
    """The same bytes as an object that slices fast: the map or bytes behind `data`, else a view of it."""
    owner = _owner(data)
    return owner if isinstance(owner, mmap.mmap | bytes) and len(owner) == len(data) else data.data


def _owner(data: np.ndarray) -> object:
    owner = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner
