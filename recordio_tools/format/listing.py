"""Lists of pictures (`.lst`) in both dialects, and the lists in which benchmarks are published.

- im2rec: `index<TAB>label[<TAB>label…]<TAB>path`
- face2rec2: `aligned<TAB>path<TAB>label[<TAB>box of 4[<TAB>landmarks of 10]]`, stored as labels `[label, aligned, …]`;
  the landmarks are five x, then five y, by which a picture that is not aligned yet (0) is warped
- benchmarks: `path label`, such as `n01440764/n01440764_190.JPEG 0` or `/a/airfield/00000001.jpg 0`
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recordio_tools.format.pictures import Picture
from recordio_tools.format.recordio import RecordError

_ENTRY = re.compile(r"([^\t]*?\S)(?:\s+(-1|[0-9]{1,9}))?")  # an image, and a label if there is one
_KEY = re.compile(r"[0-9]{1,18}")
_PATH = re.compile(r".*\.[A-Za-z]\w*")
LARGEST_LABEL = 2**53  # above it a float64, as which labels are read, no longer tells neighbours apart
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def text_of(name: str) -> str:
    """A file name, as Python has it under the locale, as text: its bytes are UTF-8 whatever the locale is."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def name_of(text: str) -> str:
    """The reverse of `text_of`: what to ask Python for."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def read_list(path: Path, root: Path | None = None) -> list[Picture]:
    """Pictures of a `.lst` file, their paths relative to `root` (by default the list's folder).

    The first line decides the dialect: in face2rec2's the second field is no number. A single label stays a scalar, of
    several the first is the identity. Raises RecordError naming the first line that does not fit.
    """
    root = path.parent if root is None else root
    pictures: list[Picture] = []
    parse = None
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) < 3:
                raise _misfit(path, number, line, "fields parted by tabs, three at least (lines `path label`: --list)")
            if parse is None:
                parse = _im2rec if _NUMBER.fullmatch(fields[1]) else _face2rec2
            pictures.append(parse(fields, root, path, number, line))
    if not pictures:
        raise RecordError("the list is empty", path=path, kind="list")
    return pictures


def _im2rec(fields: list[str], root: Path, path: Path, number: int, line: str) -> Picture:
    if not all(_NUMBER.fullmatch(field) for field in fields[:-1]):
        raise _misfit(path, number, line, "index<TAB>label<TAB>path")
    labels = [float(field) for field in fields[1:-1]]
    _refuse_label(labels[0], path, number, line)
    return Picture(root / name_of(fields[-1]), int(labels[0]) if len(labels) == 1 else labels)


def _face2rec2(fields: list[str], root: Path, path: Path, number: int, line: str) -> Picture:
    numbers = [fields[0], *fields[2:]]
    if not all(_NUMBER.fullmatch(field) for field in numbers) or len(fields) not in (3, 7, 17):
        raise _misfit(path, number, line, "aligned<TAB>path<TAB>label, then a box of 4, then landmarks of 10")
    aligned, label, *rest = (float(field) for field in numbers)
    _refuse_label(label, path, number, line)
    landmarks = tuple(rest[4:]) if aligned == 0 and len(rest) == 14 else None
    return Picture(root / name_of(fields[1]), [label, aligned, *rest], landmarks)


def _refuse_label(label: float, path: Path, number: int, line: str) -> None:
    if not (0 <= label < LARGEST_LABEL and label.is_integer()):
        raise _misfit(path, number, line, "a label that is a whole number from 0, below 2^53")


def _misfit(path: Path, number: int, line: str, expected: str) -> RecordError:
    given = line.rstrip("\r\n")[:60].encode("utf-8", "replace").decode()
    return RecordError(f"line {number} is {given!r}, expected {expected}", path=path, kind="list")


class ImageList(NamedTuple):
    """The images that a benchmark's list names, each once, in the order of its lines."""

    file: Path
    by_key: bool  # whether it names images by record key, not by path
    images: list[str]  # paths from the set's folder on, or record keys in decimal
    labels: np.ndarray | None  # int64[n], as the list has them, -1 for no known class; None where it has none

    def without(self, lines: list[int], where: str) -> RecordError:
        """What to say when the images of these lines (from 1) are not `where` they must be."""
        first = f"the first {self.images[lines[0] - 1]!r} (line {lines[0]})"
        problem = f"{len(lines):,} of its {len(self.images):,} images are missing, {first}: expected them {where}"
        return RecordError(problem, path=self.file, kind="list")


def read_image_list(path: Path) -> ImageList:
    """A benchmark's list: a line is an image and its label, or for all lines an image alone.

    An image is a path, whose leading `/` or `./` counts for nothing, or a record key, which is a whole number and
    nothing else; which of the two, the first line decides. Raises RecordError for the first line that does not fit,
    that repeats an image, or that gives it another label.
    """
    by_key = labelled = False
    labels: list[int] = []
    line_of: dict[str, int] = {}
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            entry = _ENTRY.fullmatch(line.strip())
            if entry is None or not (_KEY.fullmatch(entry[1]) or _PATH.fullmatch(entry[1])):
                raise _misfit(path, number, line, "an image's path or record key, and a label from 0 (or -1)")
            is_key, has_label = _KEY.fullmatch(entry[1]) is not None, entry[2] is not None
            if number == 1:
                by_key, labelled = is_key, has_label
            elif by_key != is_key:
                raise _misfit(path, number, line, f"a {'record key' if by_key else 'path'}, as on line 1")
            elif labelled != has_label:
                raise _misfit(path, number, line, f"{'a' if labelled else 'no'} label, as on line 1")
            image = str(int(entry[1])) if is_key else clean_path(entry[1])
            if ".." in image.split("/"):
                raise _misfit(path, number, line, "a path without `..`")
            if has_label:
                labels.append(int(entry[2]))
            if (first := line_of.setdefault(image, number)) != number:
                problem = f"line {number} names {image!r} again, after line {first}"
                if has_label and labels[-1] != labels[first - 1]:
                    problem += f", with label {labels[-1]} instead of {labels[first - 1]}"
                raise RecordError(f"{problem}; expected each image once", path=path, kind="list")
    if not line_of:
        raise RecordError("the list is empty", path=path, kind="list")
    return ImageList(path, by_key, list(line_of), np.array(labels, np.int64) if labelled else None)


def contiguous_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A list's labels in ascending order, int64[K], and the place of each image's label there, int64[n].

    The label -1, of open sets, comes last: where a list has strangers too, those known keep their labels and the
    strangers have one of their own.
    """
    known = np.unique(labels)
    ordered = np.concatenate([known[known >= 0], known[known < 0]])
    order = np.argsort(ordered, kind="stable")
    return ordered, order[np.searchsorted(ordered, labels, sorter=order)]


def labels_of(listed: ImageList, classes: list[int], folder: Path) -> np.ndarray:
    """The place of each image's label among `classes`, those of the set in `folder`, int64[n]. Raises RecordError."""
    assert listed.labels is not None
    place = {label: place for place, label in enumerate(classes)}
    for number, label in enumerate(listed.labels.tolist(), 1):
        if label not in place:
            problem = f"line {number} has label {label}, expected one of {folder}, whose labels --labels-of takes"
            raise RecordError(problem, path=listed.file, kind="list")
    return np.array([place[label] for label in listed.labels.tolist()], np.int64)


def clean_path(path: str) -> str:
    """A path without what does not change where it leads: a leading `/`, `.` and empty parts."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def format_list(entries: list[tuple[int, list[float], str]]) -> str:
    """im2rec's dialect: index, labels, path."""
    return "".join(
        "\t".join([str(index), *(f"{label:.9g}" for label in labels), name]) + "\n" for index, labels, name in entries
    )
