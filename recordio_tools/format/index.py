"""The text index of a RecordIO file: one line `key<TAB>byte offset` for each record, in any order."""

from pathlib import Path

import numpy as np

from recordio_tools.format.recordio import RecordError

WIDEST_NUMBER = 18  # digits that always fit int64
CHUNK_BYTES = 2 << 20
_TAB, _NEWLINE, _RETURN, _MINUS = 9, 10, 13, 45
_KINDS = np.zeros(256, np.uint8)  # 1: part of a number, 2: tab, 3: newline, 0: must not occur
_KINDS[[*range(48, 58), _MINUS]] = 1
_KINDS[_TAB] = 2
_KINDS[_NEWLINE] = 3


def read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets (int64 both), in the order of the lines.

    Raises RecordError (kind `index`) naming the first line that is not two integers parted by a tab.
    """
    keys, offsets, first_line = [], [], 1
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            chunk += file.readline()
            numbers = _parse(chunk, path, first_line)
            keys.append(numbers[0::2])
            offsets.append(numbers[1::2])
            first_line += len(numbers) // 2
    if not keys:
        raise RecordError("is empty; rebuild it with: python -m recordio_tools index FOLDER", path=path, kind="index")
    return np.concatenate(keys), np.concatenate(offsets)


def _parse(chunk: bytes, path: Path, first_line: int) -> np.ndarray:
    text = np.frombuffer(chunk if chunk.endswith(b"\n") else chunk + b"\n", np.uint8)
    if _RETURN in text:
        text = text[text != _RETURN]
    kinds = _KINDS[text]
    stops = np.flatnonzero(kinds != 1)
    widths = np.diff(stops, prepend=-1) - 1
    minus = np.flatnonzero(text == _MINUS)
    misplaced = minus[(minus > 0) & (kinds[minus - 1] == 1)]
    wrong = (widths < 1) | (widths > WIDEST_NUMBER)
    wrong[0::2] |= kinds[stops[0::2]] != _KINDS[_TAB]
    wrong[1::2] |= kinds[stops[1::2]] != _KINDS[_NEWLINE]
    wrong |= (widths == 1) & (text[stops - 1] == _MINUS)
    wrong[np.searchsorted(stops, misplaced)] = True
    if wrong.any():
        line = int(np.count_nonzero(kinds[: stops[np.argmax(wrong)]] == 3))
        given = text.tobytes().split(b"\n", line + 1)[line][:40]
        problem = f"line {first_line + line} is {given!r}, expected key<TAB>offset, two integers"
        raise RecordError(problem, path=path, kind="index")
    return np.fromstring(text.tobytes(), np.int64, sep=" ")


def format_index(keys: np.ndarray, offsets: np.ndarray) -> bytes:
    """The text of an index, the lines `"%d\\t%d\\n" % (key, offset)` of whole arrays. No number may be negative."""
    pieces = []
    for start in range(0, len(keys), 1 << 20):
        part = slice(start, start + (1 << 20))
        columns = [_digits(keys[part], _TAB), _digits(offsets[part], _NEWLINE)]
        text = np.concatenate(columns, axis=1)
        pieces.append(text[text != 0].tobytes())
    return b"".join(pieces)


def _digits(values: np.ndarray, stop: int) -> np.ndarray:
    """N×W uint8: decimal digits right-aligned, 0 where there is none, then the byte `stop`."""
    width = len(str(int(values.max(initial=0))))
    table = np.empty((len(values), width + 1), np.uint8)
    rest = np.asarray(values, np.int64)
    for column in range(width - 1, -1, -1):
        quotient = rest // 10
        digit = rest - quotient * 10 + ord("0")
        table[:, column] = digit if column == width - 1 else np.where(rest > 0, digit, 0)
        rest = quotient
    table[:, width] = stop
    return table
