"""A feature set on disk: a folder (or one `.npz`) with a row per image, read by blocks, handed out as unit rows.

Folder layout: `features.npy` (N×D; float32, float16, or bfloat16 as ml_dtypes' `V2` or as uint16 with
`"dtype": "bfloat16"` in the meta; of either byte order, by rows or, more slowly, by columns), `labels.npy` (N, int64
identity numbers) and, when known, `names.txt` (line i names identity i), `paths.txt` (line i names the image of row i)
and `meta.json` (what made it). Texts are UTF-8.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.strict_json import read_json

# what damaged and hostile .npy and .npz files make numpy raise
UNREADABLE = (
    ValueError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
# what facelt.extract writes of the recogniser and of which of its embeddings the features are
MAKERS = ("recogniser", "checkpoint", "step", "model", "mean", "std", "channels", "size", "memory", "flip", "embedding")
SAMPLE = 500  # rows that a set is judged by
ALIKE = 1e-6  # below 1, where cosines of float32 rows of one direction end
SAFE = (1e-15, 1e18)  # norms whose float32 squares neither vanish nor overflow


class StoredRows(Protocol):
    """Where the rows of a feature set come from: memory, a file, or a random generator."""

    shape: tuple[int, ...]  # (N, D), once `checked`

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop-1 as float32 (n×D), as stored."""
        ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The given rows as float32 (n×D), as stored."""
        ...


def to_float32(values: np.ndarray, bfloat16: bool = False) -> np.ndarray:
    """Float32 copy of stored values, never a view; bfloat16 bits are the upper half of a float32."""
    if bfloat16:
        bits = values.view(np.uint16) if values.dtype.kind == "V" else values
        return (bits.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and `normalise` refuses it
        return np.array(values, dtype=np.float32, order="C")


class ArrayRows:
    """Rows held in memory."""

    def __init__(self, values: np.ndarray, bfloat16: bool = False):
        self.values, self.bfloat16 = values, bfloat16
        self.shape: tuple[int, ...] = values.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return to_float32(self.values[start:stop], self.bfloat16)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return to_float32(self.values[indices], self.bfloat16)


class FileRows:
    """Rows of a `.npy` file. Blocks are read, not mapped: pages of a map would count as this process's memory."""

    def __init__(self, path: Path, bfloat16: bool = False):
        mapped = np.load(path, mmap_mode="r")
        if mapped.ndim != 2:
            raise InputError(f"{path}: shape {mapped.shape}, expected N×D")
        self.path, self.dtype, self.offset, self.bfloat16 = path, mapped.dtype, mapped.offset, bfloat16
        self.by_rows = mapped.flags.c_contiguous
        self.shape: tuple[int, ...] = mapped.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        if not self.by_rows:
            return to_float32(np.ascontiguousarray(np.load(self.path, mmap_mode="r")[start:stop]), self.bfloat16)
        n, dimension = stop - start, self.shape[1]
        at = self.offset + start * dimension * self.dtype.itemsize
        # fromfile reads numbers only; a two-byte void is read as the integer it is
        stored = self.dtype if self.dtype.kind != "V" else np.dtype(np.uint16)
        values = np.fromfile(self.path, stored, n * dimension, offset=at).reshape(n, dimension)
        # what was just read belongs to nobody else: float32 needs no copy
        return values if values.dtype == np.float32 else to_float32(values, self.bfloat16)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return to_float32(np.load(self.path, mmap_mode="r")[indices], self.bfloat16)


@dataclass(frozen=True)
class FeatureSet:
    """Features of N images.

    stored: the rows (N×D) as they lie in memory or on disk. labels: int64 (N), identity numbers from 0 up. where: names
    the set in messages. names: of identities, by label. paths: of images, one a row. meta: what made the set.
    """

    stored: StoredRows
    labels: np.ndarray
    where: str = "features"
    names: list[str] | None = None
    paths: list[str] | None = None
    meta: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return self.stored.shape[0]

    @property
    def dimension(self) -> int:
        return self.stored.shape[1]

    def unit(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop-1 scaled to length 1, float32 (n×D). Raises InputError on NaN, overflow or a zero row."""
        return normalise(self.stored.read(start, stop), self.where, start)

    def unit_take(self, indices: np.ndarray) -> np.ndarray:
        """The given rows scaled to length 1, float32 (n×D)."""
        return normalise(self.stored.take(np.asarray(indices)), self.where, indices)

    def norms(self) -> np.ndarray:
        """Lengths of all rows as stored, float64 (N)."""
        norms = []
        for span in spans(len(self), 65536):
            rows = self.stored.read(*span)
            with np.errstate(over="ignore"):
                norms.append(np.linalg.norm(rows, axis=1).astype(np.float64))
            odd = _odd(norms[-1])
            norms[-1][odd] = np.linalg.norm(rows[odd].astype(np.float64), axis=1)
        return np.concatenate(norms)

    def column(self, name: str) -> np.ndarray:
        """One number a row (N, float64) from a .npy file in the set's folder, such as reachability."""
        path = Path(self.where) / name
        try:
            values = np.load(path)
        except UNREADABLE as error:
            raise InputError(f"{path}: no readable .npy ({_one_line(error)}); expected one number a row") from error
        if values.shape != (len(self),) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise InputError(f"{path}: {values.dtype} of shape {values.shape}, expected {len(self)} finite numbers")
        return values.astype(np.float64)

    def name_of(self, label: int) -> str:
        """Name of an identity, or its number where names are not known."""
        return self.names[label] if self.names is not None else str(label)


def same_dimension(one: FeatureSet, other: FeatureSet) -> None:
    """Raise InputError unless two sets can be compared."""
    if one.dimension != other.dimension:
        raise InputError(
            f"{one.where} has {one.dimension} dimensions and {other.where} {other.dimension}; "
            "expected features of one recogniser: extract both with the same one"
        )


def check_spread(one: FeatureSet, other: FeatureSet) -> None:
    """Raise InputError if the rows of two sets all point one way, by a sample: nobody could be told from anybody."""
    rows = [part.unit_take(np.unique(np.linspace(0, len(part) - 1, SAMPLE).astype(int))) for part in (one, other)]
    sampled = np.concatenate(rows).astype(np.float64)
    lowest = float((sampled @ sampled[0]).min())
    if lowest > 1 - ALIKE:
        raise InputError(
            f"{one.where} and {other.where}: features have collapsed, cosines of {len(sampled)} rows to the first are "
            f"{lowest:.7f} at least; train the recogniser again or extract with another"
        )


def same_rows(one: FeatureSet, other: FeatureSet) -> bool:
    """Whether two sets are alike, by their sizes and a sample of their rows."""
    if one.stored.shape != other.stored.shape:
        return False
    some = np.unique(np.linspace(0, len(one) - 1, SAMPLE).astype(int))
    return np.array_equal(one.stored.take(some), other.stored.take(some))


def same_recogniser(one: FeatureSet, other: FeatureSet) -> None:
    """Raise InputError if the metas of two sets name different recognisers or embeddings."""
    for key in MAKERS:
        if key in one.meta and key in other.meta and one.meta[key] != other.meta[key]:
            raise InputError(
                f"{one.where} has {key} {one.meta[key]!r} in its meta.json and {other.where} {other.meta[key]!r}; "
                "expected features of one recogniser: extract both alike, or give --mixed"
            )


def normalise(rows_nD: np.ndarray, where: str = "features", first: int | np.ndarray = 0) -> np.ndarray:
    """Rows (float32) scaled in place to unit length, each by itself: a row's result never depends on its neighbours.

    where, first: the set and the row numbers (one each, or that of the first) that an InputError names.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norms_n = np.sqrt(np.einsum("nd,nd->n", rows_nD, rows_nD))
    odd = np.flatnonzero(_odd(norms_n))
    if len(odd):
        # by a power of two, which is exact, so that the largest number is about 1 and squares are what they should be
        largest = np.abs(rows_nD[odd]).max(axis=1)
        kept = np.isfinite(largest)
        odd, largest = odd[kept], largest[kept]
        rows_nD[odd] = np.ldexp(rows_nD[odd], -np.frexp(largest)[1][:, None])
        norms_n[odd] = np.sqrt(np.einsum("nd,nd->n", rows_nD[odd], rows_nD[odd]))
    wrong = ~(np.isfinite(norms_n) & (norms_n > 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        row = int(first[at]) if isinstance(first, np.ndarray) else first + at
        problem = (
            "is zero, or too small for float32"
            if norms_n[at] == 0
            else "holds NaN, infinity or a value beyond its format's range"
        )
        raise InputError(
            f"{where}: row {row} {problem}; expected finite, non-zero features: extract it again or drop it"
        )
    rows_nD /= norms_n[:, None]
    return rows_nD


def _odd(norms_n: np.ndarray) -> np.ndarray:
    """Which norms (bool, n) float32 may have got wrong; NaN and infinity too."""
    return ~((norms_n > SAFE[0]) & (norms_n < SAFE[1]))


def check_dtype(dtype: np.dtype, meta: dict, where: str) -> bool:
    """Whether features are bfloat16; False for float16, 32 and 64. Raises InputError for anything else."""
    # ml_dtypes saves bfloat16 as two void bytes; others store its bits as uint16 and say so
    if dtype == np.dtype("V2") or (dtype.kind == "u" and dtype.itemsize == 2 and meta.get("dtype") == "bfloat16"):
        return True
    if dtype.kind != "f":
        raise InputError(f"{where}: features of type {dtype}, expected float32, float16 or bfloat16")
    return False


def load_features(path: str | Path) -> FeatureSet:
    """Open a feature set: a folder, or one `.npz` with the arrays `features`, `labels` and optionally `names`, `paths`.

    Nothing but the header of a folder's features is read. Raises InputError for whatever does not fit together.
    """
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such feature set; expected a folder with features.npy and labels.npy, or a .npz")
    for name in ("features.npy", "labels.npy"):
        if not (path / name).is_file():
            raise InputError(f"{path}: {name} is missing; expected a folder with features.npy and labels.npy")
    meta = _read_meta(path / "meta.json")
    try:
        head = np.load(path / "features.npy", mmap_mode="r")
        labels = np.load(path / "labels.npy")
    except UNREADABLE as error:
        raise InputError(f"{path}: not readable as .npy ({_one_line(error)}); extract it again") from error
    rows = FileRows(path / "features.npy", check_dtype(head.dtype, meta, str(path)))
    paths = _lines(path / "paths.txt", errors="surrogateescape")  # as in Python's own file names
    return checked(FeatureSet(rows, labels, str(path), _lines(path / "names.txt"), paths, meta))


def _load_npz(path: Path) -> FeatureSet:
    try:
        with np.load(path) as arrays:
            held = {name: np.asarray(arrays[name]) for name in arrays.files}
    except UNREADABLE as error:
        raise InputError(f"{path}: not readable as .npz ({_one_line(error)}); extract it again") from error
    if not {"features", "labels"} <= held.keys():
        raise InputError(f"{path}: holds {sorted(held)}, expected the arrays features (N×D) and labels (N)")
    names, paths = ([str(x) for x in held[key].ravel()] if key in held else None for key in ("names", "paths"))
    if any(text != text.encode(errors="replace").decode() for text in [*(names or []), *(paths or [])]):
        raise InputError(f"{path}: a name or path is not Unicode text; extract it again")
    bfloat16 = check_dtype(held["features"].dtype, {"dtype": str(held.get("dtype", ""))}, str(path))
    return checked(FeatureSet(ArrayRows(held["features"], bfloat16), held["labels"], str(path), names, paths))


def checked(features: FeatureSet) -> FeatureSet:
    """The same set with int64 labels, once its parts are known to fit together."""
    where, labels = features.where, features.labels
    if len(features.stored.shape) != 2 or min(features.stored.shape) == 0:
        raise InputError(f"{where}: features of shape {features.stored.shape}, expected N×D with at least one row")
    if labels.dtype.kind not in "iu" or labels.shape != (len(features),):
        raise InputError(
            f"{where}: labels of type {labels.dtype} and shape {labels.shape} for {len(features)} rows of features; "
            "expected one whole number a row"
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"{where}: label {wrong}, expected identity numbers from 0 up, within int64")
    if features.names is not None:
        if labels.max() >= len(features.names):
            raise InputError(
                f"{where}: label {labels.max()} but names.txt has {len(features.names)} lines; one a label"
            )
        if len(set(features.names)) < len(features.names):
            twice = next(name for name in features.names if features.names.count(name) > 1)
            raise InputError(f"{where}: names.txt names {twice!r} twice; expected one line an identity")
    if features.paths is not None and len(features.paths) != len(features):
        raise InputError(f"{where}: paths.txt has {len(features.paths)} lines for {len(features)} rows of features")
    return replace(features, labels=labels.astype(np.int64))


def write_features(
    path: str | Path,
    features: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None = None,
    paths: list[str] | None = None,
    meta: dict | None = None,
) -> None:
    """Write a feature set as a folder; features (N×D) are stored in their own float type."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    np.save(path / "features.npy", np.ascontiguousarray(features))
    np.save(path / "labels.npy", np.asarray(labels, dtype=np.int64))
    for name, lines in (("names.txt", names), ("paths.txt", paths)):
        if lines is not None:
            (path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (path / "meta.json").write_text(json.dumps(meta or {}, indent=1) + "\n", encoding="utf-8")


def spans(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive half-open ranges of at most `size` that cover 0 … total-1."""
    return ((start, min(start + size, total)) for start in range(0, total, size))


def _lines(path: Path, errors: str = "strict") -> list[str] | None:
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({_one_line(error)})") from error
    # not splitlines: a name may hold what that takes for the end of a line
    return text.removesuffix("\n").split("\n") if text else []


def _read_meta(path: Path) -> dict:
    if not path.is_file():
        return {}
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise InputError(f"{path}: holds a {type(meta).__name__}, expected an object")
    return meta


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
