"""An InsightFace set on disk: `train.rec`, `train.idx`, `property` and, optionally, `names.txt`.

Image records carry an encoded image; the header record (key 0) and the identity records carry only a range of keys.
They are told apart by that, wherever they lie and whatever their keys, so that sets without them, with keys from 0 or
1, with gaps, or with more images than float32 can count are read alike.
"""

import mmap
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from recordio_tools.heads import Heads, read_heads
from recordio_tools.index import read_index
from recordio_tools.recordio import IRHeader, RecordError, decode, unpack
from recordio_tools.writer import IDX, NAMES, PROPERTY, REC, DatasetWriter

__all__ = ["DatasetWriter", "RecordDataset", "map_file", "read_names", "read_property"]


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


def read_property(path: Path) -> tuple[int, tuple[int, int]] | None:
    """`(num_classes, (height, width))` from a `property` file, None when there is none. Raises RecordError."""
    if not path.is_file():
        return None
    line = path.read_bytes()[:200].split(b"\n")[0].strip()
    numbers = [field.strip() for field in line.split(b",")]
    if len(numbers) != 3 or not all(field.isdigit() and len(field) < 10 and int(field) for field in numbers):
        problem = f"first line is {line[:40]!r}, expected num_classes,height,width (three positive integers)"
        raise RecordError(problem, path=path, kind="property")
    classes, height, width = map(int, numbers)
    return classes, (height, width)


def read_names(path: Path, num_classes: int) -> list[str] | None:
    """Identity names, one a line, None when there is no such file. Raises RecordError."""
    if not path.is_file():
        return None
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RecordError(f"is not UTF-8 text at byte {error.start}", path=path, kind="names") from None
    if len(names) != num_classes:
        problem = f"{len(names)} names for {num_classes} identities; expected one line for each"
        raise RecordError(problem, path=path, kind="names")
    return names


class RecordDataset:
    """Random access to the images of a set, in the order of their keys, and all labels without decoding.

    `source` is a folder that holds `train.rec`, or a `.rec` file with its `.idx` beside it. Opening reads every
    record's head
    and raises RecordError for the first that is wrong: a missing or empty folder, an index that does not match, a
    truncated record, a label that is NaN or outside the classes, a malformed property, index or names file. Instances
    can be pickled and shared with forked processes.

    Attributes:
        keys, offsets, ends, labels: int64[N] of the images: record key, first byte, byte after the last, identity.
        heads: the images' `Heads`.
        range_keys, range_offsets: int64[M] of the header and identity records.
        num_classes, image_size: from `property`, else the largest label + 1 and the size of the first image (height,
        width).
        names: one name per identity, or None.
    """

    keys: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    num_classes: int
    image_size: tuple[int, int]
    names: list[str] | None

    def __init__(self, source: Path | str):
        self.rec_path = find_rec(Path(source))
        self.folder = self.rec_path.parent
        index_path = self.rec_path.with_suffix(".idx")
        if not index_path.is_file():
            problem = "no such index; rebuild it with: python -m recordio_tools index FOLDER"
            raise RecordError(problem, path=index_path, kind="missing")
        self._data = map_file(self.rec_path)
        keys, offsets = _in_key_order(*read_index(index_path), index_path)
        heads = read_heads(self._data, keys, offsets, self.rec_path)
        is_image = heads.image_bytes > 0
        self._refuse_imageless(keys, offsets, heads)
        self.range_keys, self.range_offsets = keys[~is_image], offsets[~is_image]
        self.keys, self.offsets = keys[is_image], offsets[is_image]
        self.heads = Heads(*(column[is_image] for column in heads))
        self.ends = self.heads.ends
        if len(self.keys) == 0:
            raise RecordError(f"none of its {len(keys)} records holds an image", path=self.rec_path, kind="empty")
        self.property_path = self.folder / PROPERTY
        stated = read_property(self.property_path)
        self.labels = self._identities(None if stated is None else stated[0])
        self.num_classes = int(self.labels.max()) + 1 if stated is None else stated[0]
        self.image_size = self.measure(0) if stated is None else stated[1]
        self.names = read_names(self.folder / NAMES, self.num_classes)

    def _refuse_imageless(self, keys: np.ndarray, offsets: np.ndarray, heads: Heads) -> None:
        wrong = (heads.image_bytes == 0) & (heads.flag != 2)
        if wrong.any():
            first = int(np.argmax(wrong))
            problem = f"holds no image, and flag {heads.flag[first]} says that it is no header or identity record"
            place = {"key": int(keys[first]), "offset": int(offsets[first])}
            raise RecordError(problem, path=self.rec_path, kind="empty", **place)

    def _identities(self, classes: int | None) -> np.ndarray:
        labels = self.heads.label
        limit = 2**24 if classes is None else classes  # above 2^24 a float32 label no longer tells neighbours apart
        with np.errstate(invalid="ignore"):
            wrong = ~((labels >= 0) & (labels < limit) & (labels == np.floor(labels)))
        if wrong.any():
            first = int(np.argmax(wrong))
            said = "" if classes is None else f" that {self.property_path} gives"
            problem = f"label {labels[first]:g}, expected one of the {limit} classes 0..{limit - 1}{said}"
            place = {"key": int(self.keys[first]), "offset": int(self.offsets[first])}
            raise RecordError(problem, path=self.rec_path, kind="label", **place)
        return labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_images(self) -> int:
        """N, the number of image records."""
        return len(self.keys)

    @property
    def data(self) -> np.ndarray:
        """The whole `.rec` file, uint8, memory-mapped."""
        return self._data

    def record(self, i: int) -> tuple[IRHeader, np.ndarray]:
        """Header and encoded image (uint8, a view of the file when the record has one part) of image i."""
        key, offset = int(self.keys[i]), int(self.offsets[i])
        payload, _ = decode(self._data, offset, path=self.rec_path, key=key)
        return unpack(payload, path=self.rec_path, key=key, offset=offset)

    def jpeg(self, i: int) -> np.ndarray:
        """The encoded bytes of image i, uint8: a view of the file when the record has one part."""
        return self.record(i)[1]

    def measure(self, i: int) -> tuple[int, int]:
        """(height, width) of image i from its own header. Raises RecordError when it is no image."""
        try:
            with Image.open(BytesIO(self.jpeg(i))) as image:
                return image.height, image.width
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            problem = f"not an image that can be decoded ({type(error).__name__})"
            place = {"key": int(self.keys[i]), "offset": int(self.offsets[i])}
            raise RecordError(problem, path=self.rec_path, kind="image", **place) from None

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_data"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._data = map_file(self.rec_path)


def find_rec(source: Path) -> Path:
    """The `.rec` file of a data folder, or `source` itself when it is one. Raises RecordError (kind `missing`)."""
    if source.suffix == ".rec" and source.is_file():
        return source
    if not source.is_dir():
        problem = f"no such folder; expected one that holds {REC}, {IDX} and {PROPERTY}"
        raise RecordError(problem, path=source, kind="missing")
    if not (source / REC).is_file():
        problem = f"holds no {REC}; expected a data folder with {REC}, {IDX} and {PROPERTY}"
        raise RecordError(problem, path=source, kind="missing")
    return source / REC


def _in_key_order(keys: np.ndarray, offsets: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if (np.diff(keys) <= 0).any():
        order = np.argsort(keys, kind="stable")
        keys, offsets = keys[order], offsets[order]
        if (repeated := np.flatnonzero(np.diff(keys) == 0)).size:
            raise RecordError("is there twice", path=path, key=int(keys[repeated[0]]), kind="index")
    if keys[0] < 0:
        raise RecordError("is negative", path=path, key=int(keys[0]), kind="index")
    return keys, offsets
