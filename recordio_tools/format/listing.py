"""Lists of pictures (`.lst`) in both dialects.

- im2rec: `index<TAB>label[<TAB>label…]<TAB>path`
- face2rec2: `aligned<TAB>path<TAB>label[<TAB>box of 4[<TAB>landmarks of 10]]`, stored as labels `[label, aligned, …]`
"""

import re
from pathlib import Path

from recordio_tools.format.pictures import Picture
from recordio_tools.format.recordio import RecordError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_list(path: Path, root: Path | None = None) -> list[Picture]:
    """Pictures of a `.lst` file, their paths relative to `root` (by default the list's folder).

    The first line decides the dialect: in face2rec2's the second field is no number. A single label stays a scalar, of
    several the first is the identity. Raises RecordError naming the first line that does not fit.
    """
    root = path.parent if root is None else root
    pictures: list[Picture] = []
    parse = None
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) < 3:
                raise _misfit(path, number, line, "fields parted by tabs, three at least")
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
    return Picture(root / fields[-1], int(labels[0]) if len(labels) == 1 else labels)


def _face2rec2(fields: list[str], root: Path, path: Path, number: int, line: str) -> Picture:
    numbers = [fields[0], *fields[2:]]
    if not all(_NUMBER.fullmatch(field) for field in numbers) or len(fields) not in (3, 7, 17):
        raise _misfit(path, number, line, "aligned<TAB>path<TAB>label, then a box of 4, then landmarks of 10")
    aligned, label, *rest = (float(field) for field in numbers)
    _refuse_label(label, path, number, line)
    return Picture(root / fields[1], [label, aligned, *rest])


def _refuse_label(label: float, path: Path, number: int, line: str) -> None:
    if label < 0 or not label.is_integer():
        raise _misfit(path, number, line, "a label that is a whole number from 0")


def _misfit(path: Path, number: int, line: str, expected: str) -> RecordError:
    given = line.rstrip("\r\n")[:60].encode("utf-8", "replace").decode()
    return RecordError(f"line {number} is {given!r}, expected {expected}", path=path, kind="list")


def format_list(entries: list[tuple[int, list[float], str]]) -> str:
    """im2rec's dialect: index, labels, path."""
    return "".join(
        "\t".join([str(index), *(f"{label:.9g}" for label in labels), name]) + "\n" for index, labels, name in entries
    )
