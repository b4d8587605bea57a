"""Lists of images that a trainer could not decode, as `RUN/quarantine.jsonl` has them: one JSON object a line.

A line: key of the record, label, reason, and the CRC-32 of the encoded image, by which another set's is told apart.
"""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recordio_tools.format.image_records import ImageRecords
from recordio_tools.format.recordio import RecordError

FIELDS = (int, int, str, int)


class Unreadable(NamedTuple):
    """One line. crc32: of the image as it lies in the record."""

    key: int
    label: int
    reason: str
    crc32: int

    def line(self) -> str:
        """As it is written."""
        return json.dumps(self._asdict()) + "\n"


def of_image(images: ImageRecords, row: int, label: int, reason: str) -> Unreadable:
    """The line for an image of a set."""
    return Unreadable(int(images.keys[row]), int(label), reason, zlib.crc32(images.jpeg(row).tobytes()))


def read_unreadable(path: Path) -> list[Unreadable]:
    """The lines of a list; none where there is no file. A torn last line is left out.

    Raises RecordError for another line that is none, or a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError as error:
        raise RecordError(f"cannot be read ({error.strerror})", path=path, kind="list") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            one = Unreadable(**json.loads(line))
        except (ValueError, TypeError):
            one = None
        if one is None or any(type(value) is not kind for value, kind in zip(one, FIELDS, strict=True)):
            if number == len(lines):
                break
            raise RecordError(f"line {number} is none of a trainer's quarantine.jsonl", path=path, kind="list")
        found.append(one)
    return found


def rows_of(listed: Iterable[Unreadable], images: ImageRecords) -> dict[int, Unreadable]:
    """Which images of a set are listed: by row. A line whose key is missing, or of another image, names none."""
    listed = list(listed)
    order = np.argsort(images.keys, kind="stable")
    keys = images.keys[order]
    found = {}
    for one, at in zip(listed, np.searchsorted(keys, [one.key for one in listed]).tolist(), strict=True):
        if at < len(keys) and keys[at] == one.key:
            row = int(order[at])
            if zlib.crc32(images.jpeg(row).tobytes()) == one.crc32:
                found[row] = one
    return found
