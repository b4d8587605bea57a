"""Random access to image records by position, over a memory map.

A row is a position among records: the same in every array with one entry per record.
"""

from pathlib import Path

import numpy as np

from recordio_tools.format.headers import Headers
from recordio_tools.format.mapping import map_file, read_ahead
from recordio_tools.format.pictures import DECODE_ERRORS, image_size
from recordio_tools.format.recordio import IRHeader, RecordError, decode, unpack


class ImageRecords:
    """N image records of a `.rec` file, in any order. Can be pickled, and shared with forked processes.

    Attributes:
        rec_path: the file.
        data: its bytes, uint8, memory-mapped.
        keys, offsets, ends: int64[N]: record key, first byte, byte after the last.
        headers: what their headers say, `Headers` of N entries.
    """

    def __init__(self, rec_path: Path, data: np.ndarray, keys: np.ndarray, offsets: np.ndarray, headers: Headers):
        self.rec_path, self.data = rec_path, data
        self.keys, self.offsets, self.ends, self.headers = keys, offsets, headers.ends, headers

    def __len__(self) -> int:
        return len(self.keys)

    def pick(self, rows: np.ndarray) -> "ImageRecords":
        """Those at `rows` (int64[n]), in that order."""
        run = len(rows) and (np.diff(rows) == 1).all()
        chosen = slice(rows[0], rows[-1] + 1) if run else rows  # a run gives views instead of copies
        return ImageRecords(
            self.rec_path, self.data, self.keys[chosen], self.offsets[chosen], self.headers.pick(chosen)
        )

    def record(self, i: int) -> tuple[IRHeader, np.ndarray]:
        """Header and encoded image (uint8, a view of the file when the record has one part) of image i."""
        key, offset = int(self.keys[i]), int(self.offsets[i])
        payload, _ = decode(self.data, offset, path=self.rec_path, key=key)
        return unpack(payload, path=self.rec_path, key=key, offset=offset)

    def jpeg(self, i: int) -> np.ndarray:
        """The encoded bytes of image i, uint8: a view of the file when the record has one part."""
        return self.record(i)[1]

    def measure(self, i: int) -> tuple[int, int]:
        """(height, width) of image i from its own header. Raises RecordError when it is no image."""
        try:
            return image_size(self.jpeg(i))
        except DECODE_ERRORS as error:
            problem = f"not an image that can be decoded ({type(error).__name__})"
            raise self.error(i, problem, "image") from None

    def read_ahead(self, images: np.ndarray) -> None:
        """Have the system begin to read these images (int64) from the disk, for whoever asks for them soon."""
        read_ahead(self.data, self.offsets[images], self.ends[images])

    def error(self, i: int, problem: str, kind: str) -> RecordError:
        """A RecordError about image i."""
        return RecordError(problem, path=self.rec_path, key=int(self.keys[i]), offset=int(self.offsets[i]), kind=kind)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "data"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.data = map_file(self.rec_path)
