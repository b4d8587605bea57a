"""Verification packs (`lfw.bin`, `cfp_fp.bin`, …): pairs of encoded images and whether each shows one person.

A pack is a pickle of `(images, issame)`: pair i is images 2i and 2i + 1. Python 2 and 3 and many versions of numpy have
written them, so an image is bytes or an array of whole numbers, and `issame` a list or an array of bools or of 0 and 1.
A pickle can run any code, so it is read by an unpickler that imports nothing: it knows bytes, strings, lists, tuples
and numbers, and puts stand-ins of its own in the place of numpy's arrays, scalars and types.
"""

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recordio_tools.atomic import output_file
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.pictures import DECODE_ERRORS, image_size
from recordio_tools.format.recordio import RecordError
from recordio_tools.writer import DatasetWriter

PAIRS = "pairs.tsv"
# A damaged pickle is answered with all of these.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_TYPES = re.compile(r"b1|[iu][1248]|f[248]|O8?|S\d{1,8}")  # as numpy names them in a pickle


class Pack(NamedTuple):
    """2·P encoded images, and bool[P]: whether pair i, images 2i and 2i + 1, shows one person."""

    images: list[bytes]
    same: np.ndarray


class _Type:
    """Stands for numpy.dtype: numbers, strings of bytes, and objects, which are whatever the pickle holds."""

    def __init__(self, name: str | bytes, *_: object):
        self.name = name.decode("latin1") if isinstance(name, bytes) else str(name)
        self.order = "<"
        if not _TYPES.fullmatch(self.name):
            raise pickle.UnpicklingError(f"an array of type {self.name!r}")

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] in (">", b">") else "<"

    def values(self, data: object) -> list | np.ndarray:
        """The values of an array with this content."""
        if self.name.startswith("O") and isinstance(data, list):
            return data
        if self.name.startswith("O") or not isinstance(data, bytes):
            raise pickle.UnpicklingError(f"an array of type {self.name!r} made of {type(data).__name__}")
        values = np.frombuffer(data, self.order + self.name)
        return values.tolist() if self.name.startswith("S") else values


class _Array:
    """Stands for numpy.ndarray; what shape it had does not matter."""

    def __init__(self, *_: object):
        self.values: list | np.ndarray = []

    def __setstate__(self, state: tuple) -> None:
        _, _, kind, _, data = state
        self.values = kind.values(data)


def _scalar(kind: _Type, data: bytes) -> Any:
    (value,) = kind.values(data)
    return value


def _from_buffer(data: bytes | bytearray, kind: _Type, *_: object) -> _Array:
    array = _Array()
    array.values = kind.values(bytes(data))
    return array


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


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
    def find_class(self, module: str, name: str) -> Any:
        """Nothing is imported: what is not known here is refused."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no pack of images needs")
        return _KNOWN[module, name]


def read_pack(path: Path | str) -> Pack:
    """Read a verification pack.

    Raises RecordError when it is missing, cannot be read, holds no pairs, or holds anything but images and bools.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RecordError("no such file; expected a pack such as lfw.bin", path=path, kind="missing") from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); expected a pack such as lfw.bin"
        raise RecordError(problem, path=path, kind="missing") from None
    try:
        _refuse_memo_bombs(content)
        images, same = _Restricted(io.BytesIO(content), encoding="bytes").load()
        pack = Pack([_image(image) for image in _items(images)], np.array([_bool(one) for one in _items(same)], bool))
    except _PICKLE_ERRORS as error:
        problem = f"not a verification pack, a pickle of (list of images, list of bools): {error}"
        raise RecordError(problem, path=path, kind="pack") from None
    _refuse_uneven(pack, path)
    if not pack.images:
        raise RecordError("holds no pairs", path=path, kind="pack")
    return pack


def _items(values: object) -> list:
    values = values.values if isinstance(values, _Array) else values
    if not isinstance(values, list | tuple | np.ndarray):
        raise pickle.UnpicklingError("its two parts are not lists of images and bools")
    return list(values)


def _image(value: object) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, _Array) and isinstance(value.values, np.ndarray) and value.values.dtype.kind in "biu":
        return value.values.astype(np.uint8).tobytes()
    raise pickle.UnpicklingError("its first part is not a list of images, each bytes or an array of them")


def _bool(value: object) -> bool:
    if isinstance(value, _Array) and len(value.values) == 1:
        value = value.values[0]
    if isinstance(value, bool | int | float | np.generic):
        if value in (0, 1):
            return bool(value)
        raise pickle.UnpicklingError(f"its second part is not a list of bools, it holds {str(value)[:40]}")
    raise pickle.UnpicklingError(f"its second part is not a list of bools, it holds a {type(value).__name__}")


def _refuse_memo_bombs(content: bytes) -> None:
    """The unpickler makes room for any memo number it is told to put: a few bytes could ask for gigabytes."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if "PUT" in opcode.name and argument is not None and int(argument) > number:
            raise pickle.UnpicklingError(f"memo number {argument} at its operation {number}")


def _refuse_uneven(pack: Pack, path: Path) -> None:
    if len(pack.images) != 2 * len(pack.same):
        problem = f"{len(pack.images)} images for {len(pack.same)} pairs, expected two for each"
        raise RecordError(problem, path=path, kind="pack")


def write_pack(path: Path, pack: Pack, *, force: bool = False) -> None:
    """Write a verification pack as other readers expect it: a pickle of a list of bytes and a list of bools."""
    _refuse_uneven(pack, path)
    with output_file(path, force=force) as partial, open(partial, "wb") as file:
        pickle.dump((list(pack.images), [bool(same) for same in pack.same]), file, protocol=4)


def pack_to_set(path: Path, out: Path, *, force: bool = False) -> int:
    """Write a pack as a data folder with `pairs.tsv`; returns the number of pairs.

    The images keep their order; both of a pair have its number for a label. `pairs.tsv` has a line `first second same`
    for each pair: rows of the set, and 1 or 0. Raises RecordError.
    """
    pack = read_pack(path)
    try:
        size = image_size(pack.images[0])
    except DECODE_ERRORS as error:
        problem = f"its first image does not decode ({type(error).__name__})"
        raise RecordError(problem, path=path, kind="image") from None
    with DatasetWriter(out, len(pack.same), size, force=force) as writer:
        for number, image in enumerate(pack.images):
            writer.add(image, number // 2)
        lines = [f"{2 * pair}\t{2 * pair + 1}\t{int(same)}\n" for pair, same in enumerate(pack.same)]
        (writer.partial / PAIRS).write_text("".join(lines), encoding="utf-8")
    return len(pack.same)


def set_to_pack(source: RecordDataset, path: Path, *, force: bool = False) -> int:
    """Write the pairs that `pairs.tsv` of a data folder lists as a pack; returns their number. Raises RecordError."""
    listing = source.folder / PAIRS
    if not listing.is_file():
        raise RecordError(
            f"no such file; expected lines first<TAB>second<TAB>same in {PAIRS}", path=listing, kind="missing"
        )
    images, same = [], []
    for number, line in enumerate(listing.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
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
