"""What a search has found so far, kept on disk, so that an interrupted one goes on by block.

One file for each search and process: an .npz of the arrays that it counts in, `done` (blocks of this process that are
counted) and `marks`, which say of what the search was. What is found does not depend on how blocks were scanned, so
a search that goes on ends with what an unbroken one finds, bit for bit.
"""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import SAMPLE, UNREADABLE, ArrayRows, FileRows
from megaface_eval.features.gallery import Gallery
from recordio_tools.atomic import check_usable, output_file

SECONDS = 10.0  # between two saves


def mark(*parts: Any) -> str:
    """What tells arrays, and whatever else can be printed, from others."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def mark_gallery(gallery: Gallery) -> str:
    """Of a gallery: which rows in which order, a sample of them, and the size and time of their file."""
    stored = gallery.features.stored
    file = None
    if isinstance(stored, FileRows):
        status = stored.path.stat()
        file = (status.st_size, status.st_mtime_ns)
    whole = stored.values if isinstance(stored, ArrayRows) else np.empty(0)
    sample = np.unique(np.linspace(0, len(gallery) - 1, SAMPLE).astype(int))
    rows = [gallery.read(at, at + 1) for at in sample.tolist()]
    return mark(gallery.sizes, gallery.ends, gallery.places, stored.shape, file, whole, *rows)


@dataclass(frozen=True)
class Kept:
    """Where searches are kept, and the name of one of them."""

    folder: Path
    name: str = ""

    def named(self, name: str) -> "Kept":
        """Another search's place in the same folder."""
        return replace(self, name=name)

    def path(self, rank: int) -> Path:
        """The file of one process."""
        return self.folder / f"{hashlib.sha256(self.name.encode()).hexdigest()[:16]}.{rank}.npz"

    def remove(self) -> None:
        """Remove whatever was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Keeper:
    """Keeps one process's arrays of one search, which it fills with what is kept of it already.

    Raises InputError where that is of other inputs, or not readable, and UserError where nothing can be kept.
    """

    def __init__(self, kept: Kept, rank: int, arrays: dict[str, np.ndarray], marks: dict[str, str]):
        self.path, self.arrays, self.marks = kept.path(rank), arrays, marks
        check_usable(kept.folder)
        self.done = self._load(kept.folder)
        self.saved = time.monotonic()

    def _load(self, folder: Path) -> int:
        anew = f"or remove {folder} to begin anew"
        if not self.path.is_file():
            return 0
        try:
            with np.load(self.path) as held:
                found = {name: held[name] for name in ("done", "marks", *self.arrays)}
            marks, done = json.loads(str(found["marks"])), int(found["done"])
        except (*UNREADABLE, KeyError) as error:
            raise InputError(f"{self.path}: not readable as an interrupted search; restore it, {anew}") from error
        other = [name for name in self.marks if self.marks[name] != marks.get(name)]
        if other:
            raise InputError(
                f"--resume: the interrupted search was of other {' and '.join(other)}; give those it was begun with, "
                f"{anew}"
            )
        for name, array in self.arrays.items():
            array[...] = found[name]
        return done

    def save(self, done: int, last: bool) -> None:
        """After `done` blocks: at once after the last, else if SECONDS have passed."""
        if not last and time.monotonic() - self.saved < SECONDS:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with output_file(self.path, force=True) as partial, partial.open("wb") as file:
            np.savez(file, done=done, marks=json.dumps(self.marks), **self.arrays)
        self.saved = time.monotonic()
