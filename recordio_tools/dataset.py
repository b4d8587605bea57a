"""An InsightFace set on disk: `train.rec`, `train.idx`, `property` and, optionally, `names.txt` and `paths.txt`.

Image records carry an encoded image; the header record (key 0) and the identity records carry only a range of keys.
They are told apart by that, wherever they lie and whatever their keys, so that sets without them, with keys from 0 or
1, with gaps, or with more images than float32 can count are read alike.
"""

import json
from codecs import BOM_UTF8
from functools import cached_property
from pathlib import Path

import numpy as np

from recordio_tools.format.headers import read_headers
from recordio_tools.format.image_records import ImageRecords
from recordio_tools.format.index import read_index
from recordio_tools.format.mapping import map_file
from recordio_tools.format.recordio import RecordError
from recordio_tools.writer import IDX, MANIFEST, NAMES, PATHS, PROPERTY, REC, DatasetWriter

__all__ = ["DatasetWriter", "RecordDataset"]


def read_property(path: Path) -> tuple[int, tuple[int, int]] | None:
    """`(num_classes, (height, width))` from a `property` file, None when there is none. Raises RecordError."""
    if not path.is_file():
        return None
    line = path.read_bytes()[:200].removeprefix(BOM_UTF8).split(b"\n")[0].strip()
    numbers = [field.strip() for field in line.split(b",")]
    if len(numbers) != 3 or not all(field.isdigit() and len(field) < 10 and int(field) for field in numbers):
        problem = f"first line is {line[:40]!r}, expected num_classes,height,width (three positive integers)"
        raise RecordError(problem, path=path, kind="property")
    classes, height, width = map(int, numbers)
    return classes, (height, width)


def read_names(path: Path, num_classes: int | None = None) -> list[str] | None:
    """Identity names, one a line (as many as `num_classes` where given), None without the file. Raises RecordError."""
    if not path.is_file():
        return None
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RecordError(f"is not UTF-8 text at byte {error.start}", path=path, kind="names") from None
    names = _without_ends(lines)
    if num_classes is not None and len(names) != num_classes:
        problem = f"{len(names)} names for {num_classes} identities; expected one line for each"
        raise RecordError(problem, path=path, kind="names")
    return names


def read_paths(path: Path, num_images: int | None = None) -> list[str] | None:
    """Where each image came from, one a line in the order of the keys; None without the file. Raises RecordError.

    There must be as many lines as `num_images`, where given. Bytes that are not UTF-8 come as surrogates, as in
    Python's own file names.
    """
    if not path.is_file():
        return None
    paths = _without_ends(path.read_bytes().decode("utf-8-sig", "surrogateescape").split("\n"))
    if num_images is not None and len(paths) != num_images:
        problem = f"{len(paths)} paths for {num_images} images; expected one line for each"
        raise RecordError(problem, path=path, kind="paths")
    return paths


def read_list_labels(path: Path, num_classes: int) -> list[int] | None:
    """What a list called each label, from a `manifest.json`; None without the file or where it is of no list.

    Raises RecordError.
    """
    if not path.is_file():
        return None
    try:
        labels = json.loads(path.read_bytes()).get("list_labels")
    except (ValueError, AttributeError) as error:
        raise RecordError(f"is no JSON object ({error}); mend or remove it", path=path, kind="manifest") from None
    if labels is None:
        return None
    if not isinstance(labels, list) or len(labels) != num_classes or not all(type(label) is int for label in labels):
        problem = f"list_labels are not {num_classes} whole numbers, one for each identity; mend or remove it"
        raise RecordError(problem, path=path, kind="manifest")
    return labels


def _without_ends(lines: list[str]) -> list[str]:
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


class RecordDataset(ImageRecords):
    """Random access to the images of a set, in the order of their keys, and all labels without decoding.

    Opening reads the header of every record. Instances can be pickled and shared with forked processes.

    Args:
        source: a folder that holds `train.rec`, or a `.rec` file with its `.idx` beside it.

    Raises:
        RecordError: for the first thing that is wrong: a missing or empty folder, an index that does not match, a
            truncated record, a label that is NaN or outside the classes, a malformed property, index or names file.

    Attributes:
        keys, offsets, ends, labels: int64[N] of the images: record key, first byte, byte after the last, identity.
        headers: what the images' headers say, `Headers` of N entries.
        range_keys, range_offsets: int64[M] of the header record and the identity records.
        num_classes: from `property`, else the largest label + 1.
        image_size: (height, width) in pixels, from `property`, else that of the first image.
        names: one name per identity, or None without `names.txt`.
        paths: where each image came from, relative to the folder it was packed from, or None without `paths.txt`. Read
            when first asked for, and only then a RecordError if its lines do not fit.
        list_labels: of a set by a benchmark's list, what the list called each label (-1: strangers), else None. Read
            when first asked for, too.
    """

    labels: np.ndarray
    num_classes: int
    image_size: tuple[int, int]
    names: list[str] | None

    def __init__(self, source: Path | str):
        rec_path = find_rec(Path(source))
        self.folder = rec_path.parent
        index_path = rec_path.with_suffix(".idx")
        if not index_path.is_file():
            problem = "no such index; rebuild it with: python -m recordio_tools index FOLDER"
            raise RecordError(problem, path=index_path, kind="missing")
        data = map_file(rec_path)
        keys, offsets = _in_key_order(*read_index(index_path), index_path)
        headers = read_headers(data, keys, offsets, rec_path)
        is_image = _tell_images(ImageRecords(rec_path, data, keys, offsets, headers))
        super().__init__(rec_path, data, keys[is_image], offsets[is_image], headers.pick(is_image))
        self.range_keys, self.range_offsets = keys[~is_image], offsets[~is_image]
        self.property_path = self.folder / PROPERTY
        stated = read_property(self.property_path)
        self.labels = self._identities(None if stated is None else stated[0])
        self.num_classes = int(self.labels.max()) + 1 if stated is None else stated[0]
        self.image_size = self.measure(0) if stated is None else stated[1]
        self.names = read_names(self.folder / NAMES, self.num_classes)

    def _identities(self, classes: int | None) -> np.ndarray:
        wrong = wrong_labels(self.headers.label, classes)
        if wrong.any():
            first = int(np.argmax(wrong))
            said = "" if classes is None else f" that {self.property_path} gives"
            raise self.error(first, f"{describe_label(self.headers.label[first], classes)}{said}", "label")
        return self.headers.label.astype(np.int64)

    def check_whole(self) -> None:
        """Raise RecordError where the file is shorter than when it was opened: reading behind its end would kill."""
        try:
            size = self.rec_path.stat().st_size
        except OSError as error:
            raise RecordError(f"cannot be read ({error.strerror})", path=self.rec_path, kind="missing") from None
        if size < len(self.data):
            problem = f"has {size:,} bytes, it had {len(self.data):,} when it was opened: it was cut short meanwhile"
            raise RecordError(problem, path=self.rec_path, kind="truncated")

    @cached_property
    def paths(self) -> list[str] | None:
        return read_paths(self.folder / PATHS, len(self))

    @cached_property
    def list_labels(self) -> list[int] | None:
        return read_list_labels(self.folder / MANIFEST, self.num_classes)

    def paths_of(self, rows: np.ndarray) -> list[str] | None:
        """Paths of the images at `rows` (int64[n]), or None without `paths.txt`."""
        return None if self.paths is None else [self.paths[row] for row in rows.tolist()]

    @property
    def num_images(self) -> int:
        """N, the number of image records."""
        return len(self.keys)


def _tell_images(records: ImageRecords) -> np.ndarray:
    """Which records are images (bool): they carry one, and header and identity records, of flag 2, carry none."""
    is_image = records.headers.image_bytes > 0
    if not is_image.any():
        raise RecordError(f"none of its {len(records)} records holds an image", path=records.rec_path, kind="empty")
    wrong = ~is_image & (records.headers.flag != 2)
    if wrong.any():
        first = int(np.argmax(wrong))
        flag = records.headers.flag[first]
        raise records.error(
            first, f"holds no image, and its flag {flag} is not that of a header or identity record", "empty"
        )
    return is_image


MOST_CLASSES = 2**24  # above it a float32 label no longer tells neighbours apart


def wrong_labels(labels: np.ndarray, classes: int | None) -> np.ndarray:
    """Which float32 labels (bool) are no class: NaN, negative, not whole, or not below `classes` (None: 2^24)."""
    with np.errstate(invalid="ignore"):
        return ~((labels >= 0) & (labels < (classes or MOST_CLASSES)) & (labels == np.floor(labels)))


def describe_label(label: float, classes: int | None) -> str:
    """What is wrong with a label that is no class."""
    limit = classes or MOST_CLASSES
    return f"label {label:g}, expected one of the {limit} classes 0..{limit - 1}"


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
