"""Verification packs (`lfw.bin`, `cfp_fp.bin`, …): pairs of encoded images and whether each shows one person.

A pack is a pickle of `(bins, issame)`: pair i is bins[2i] and bins[2i + 1], each bytes or a uint8 array. A pickle can
run any code, so it is read by an unpickler that knows nothing but bytes, strings, lists, tuples, bools and uint8
arrays, and builds the arrays itself.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recordio_tools.atomic import output_file
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.pictures import DECODE_ERRORS, image_size
from recordio_tools.format.recordio import RecordError
from recordio_tools.writer import DatasetWriter

PAIRS = "pairs.tsv"
_PICKLE_ERRORS = (pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError, MemoryError)
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


class Pack(NamedTuple):
    """2·P encoded images, and bool[P]: pair i is images 2i and 2i + 1."""

    images: list[bytes]
    same: np.ndarray


class _Array:
    """Stands for a numpy array or scalar while unpickling: takes uint8 and bool data only."""

    def __init__(self, *_):
        self.data = b""

    def __setstate__(self, state) -> None:
        _, _, dtype, _, data = state
        if not (isinstance(dtype, _Type) and isinstance(data, bytes)):
            raise pickle.UnpicklingError("an array of something other than uint8 or bool")
        self.data = data


class _Type:
    """Stands for numpy.dtype."""

    def __init__(self, name, *_):
        if name not in ("u1", "uint8", "b1", "bool", b"u1", b"b1"):
            raise pickle.UnpicklingError(f"an array of type {name!r}")

    def __setstate__(self, state) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _scalar(dtype: _Type, data: bytes) -> bool:
    if not isinstance(dtype, _Type) or len(data) != 1:
        raise pickle.UnpicklingError("a numpy scalar other than a bool")
    return data != b"\0"


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _from_buffer(data: bytes | bytearray, dtype: _Type, *_) -> _Array:
    array = _Array()
    array.__setstate__((None, None, dtype, None, bytes(data)))
    return array


def _no_bytes() -> bytes:
    return b""


_KNOWN = {
    ("_codecs", "encode"): _latin1,  # how older protocols hold the bytes of Python 3
    ("__builtin__", "bytes"): _no_bytes,  # and how they hold none
    **{(module, "_frombuffer"): _from_buffer for module in ("numpy.core.numeric", "numpy._core.numeric")},
    **{(module, "ndarray"): _Array for module in _NUMPY},
    **{(module, "dtype"): _Type for module in _NUMPY},
    **{(module, "_reconstruct"): _Array for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        """Nothing is imported: what is not known here is refused."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no pack of images needs")
        return _KNOWN[module, name]


def read_pack(path: Path) -> Pack:
    """Read a verification pack. Raises RecordError when it is missing, or holds anything but images and bools."""
    if not path.is_file():
        raise RecordError("no such file", path=path, kind="missing")
    content = path.read_bytes()
    try:
        _refuse_memo_bombs(content)
        images, same = _Restricted(io.BytesIO(content), encoding="bytes").load()
        images = [bytes(image.data if isinstance(image, _Array) else image) for image in _as_list(images, bytes)]
        same = np.frombuffer(same.data, bool) if isinstance(same, _Array) else np.array(_as_list(same, int), bool)
    except _PICKLE_ERRORS as error:
        problem = f"not a verification pack, a pickle of (list of images, list of bools): {error}"
        raise RecordError(problem, path=path, kind="pack") from None
    if len(images) != 2 * len(same):
        problem = f"{len(images)} images for {len(same)} pairs, expected two for each"
        raise RecordError(problem, path=path, kind="pack")
    return Pack(images, same)


def _as_list(values, kind: type) -> list:
    if not isinstance(values, list | tuple) or not all(isinstance(value, kind | _Array) for value in values):
        raise pickle.UnpicklingError("its two parts are not lists of images and bools")
    return list(values)


def _refuse_memo_bombs(content: bytes) -> None:
    """The unpickler makes room for any memo number it is told to put: a few bytes could ask for gigabytes."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if "PUT" in opcode.name and argument is not None and int(argument) > number:
            raise pickle.UnpicklingError(f"memo number {argument} at its operation {number}")


def write_pack(path: Path, pack: Pack, *, force: bool = False) -> None:
    """Write a verification pack as other readers expect it: a pickle of a list of bytes and a list of bools."""
    if len(pack.images) != 2 * len(pack.same):
        problem = f"{len(pack.images)} images for {len(pack.same)} pairs, expected two for each"
        raise RecordError(problem, path=path, kind="pack")
    with output_file(path, force=force) as partial, open(partial, "wb") as file:
        pickle.dump((list(pack.images), [bool(same) for same in pack.same]), file, protocol=4)


def pack_to_set(path: Path, out: Path, *, force: bool = False) -> int:
    """Write a pack as a data folder with `pairs.tsv`; returns the number of pairs.

    The images keep their order; both of a pair have its number for a label. `pairs.tsv` has a line `first second same`
    for each pair: rows of the set, and 1 or 0. Raises RecordError.
    """
    pack = read_pack(path)
    if not pack.images:
        raise RecordError("holds no pairs", path=path, kind="pack")
    try:
        size = image_size(pack.images[0])
    except DECODE_ERRORS as error:
        problem = f"its first image does not decode ({type(error).__name__})"
        raise RecordError(problem, path=path, kind="image") from None
    with DatasetWriter(out, len(pack.same), size, force=force) as writer:
        for number, image in enumerate(pack.images):
            writer.add(image, number // 2)
        lines = [f"{2 * pair}\t{2 * pair + 1}\t{int(same)}\n" for pair, same in enumerate(pack.same)]
        (writer.partial / PAIRS).write_text("".join(lines))
    return len(pack.same)


def set_to_pack(source: RecordDataset, path: Path, *, force: bool = False) -> int:
    """Write the pairs that `pairs.tsv` of a data folder lists as a pack; returns their number. Raises RecordError."""
    listing = source.folder / PAIRS
    if not listing.is_file():
        raise RecordError(
            f"no such file; expected lines first<TAB>second<TAB>same in {PAIRS}", path=listing, kind="missing"
        )
    images, same = [], []
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        fields = line.split("\t")
        rows = [int(field) for field in fields[:2] if field.isdecimal() and len(field) < 19]
        if len(fields) != 3 or len(rows) != 2 or max(rows) >= len(source) or fields[2] not in ("0", "1"):
            problem = (
                f"line {number} is {line[:40]!r}, expected two rows below {len(source)} and 0 or 1, parted by tabs"
            )
            raise RecordError(problem, path=listing, kind="list")
        images += [source.jpeg(row).tobytes() for row in rows]
        same.append(fields[2] == "1")
    write_pack(path, Pack(images, np.array(same, bool)), force=force)
    return len(same)
