"""Verification packs in bcolz folders, as CurricularFace, face.evoLVe and their kin keep them: lfw/ and lfw_list.npy.

    lfw/meta/sizes       JSON: {"shape": [2·P, 3, height, width], …}
    lfw/meta/storage     JSON: {"dtype": "float32", "chunklen": images a chunk, …}
    lfw/data/__0.blp …   a chunk each: 16 bytes of bloscpack, then one blosc buffer
    lfw_list.npy         bool (P): whether pair i, images 2i and 2i + 1, shows one person

Pixels are (x - 0.5)/0.5 of an RGB or BGR image; most writers of these packs swapped the colours to BGR, and so they are
taken. bcolz itself is not kept up; its chunks are read by `blosc`, which only the images need.
"""

import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import UNREADABLE

HEADER, MAGIC = 16, b"blpk"


def is_bcolz(folder: Path) -> bool:
    """Whether a folder looks like one of bcolz's."""
    return (folder / "meta" / "sizes").is_file() and (folder / "data").is_dir()


def read_same(folder: Path) -> np.ndarray:
    """Whether each pair is of one person (bool, P), from the list beside the folder, which its images must fit."""
    path = folder.with_name(f"{folder.name}_list.npy")
    try:
        same = np.load(path)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no readable .npy ({reason}); expected a bool for each pair of {folder}") from error
    if same.ndim != 1 or same.dtype.kind not in "bui" or not len(same) or not np.isin(same, (0, 1)).all():
        raise InputError(f"{path}: {same.dtype} of shape {same.shape}, expected a bool for each pair of {folder}")
    images = _shape(folder)[0]
    if images != 2 * len(same):
        raise InputError(f"{folder}: {images} images for {len(same)} pairs in {path.name}; expected two a pair")
    return same.astype(bool)


def read_images(folder: Path, channels: str = "bgr") -> Iterator[bytes]:
    """The images as PNG, in order. channels: `bgr` or `rgb`, how the pixels are stored."""
    shape, (dtype, length) = _shape(folder), _storage(folder)
    blosc = _library(folder)
    for chunk, start in enumerate(range(0, shape[0], length)):
        path = folder / "data" / f"__{chunk}.blp"
        expected = (min(length, shape[0] - start), *shape[1:])
        pixels = _decode(blosc, path, dtype, expected)
        for image in pixels if channels == "rgb" else pixels[:, ::-1]:
            data = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(data, "PNG")
            yield data.getvalue()


def _decode(blosc, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """One chunk's pixels, uint8 (n×3×height×width); the last chunk may be stored longer than its images."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the pack is not whole, take it again") from error
    problem = "is no chunk of bcolz"
    if content[:4] == MAGIC:
        try:
            values = np.frombuffer(blosc.decompress(content[HEADER:]), dtype)
            pixels = values[: int(np.prod(shape))].reshape(shape)
            if (np.abs(pixels) <= 1.001).all():
                return np.round(pixels * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
            problem = "holds pixels beyond -1 … 1"
        except (ValueError, TypeError, blosc.blosc_extension.error) as error:
            problem = f"cannot be decoded ({' '.join(str(error).split())})"
    raise InputError(f"{path}: {problem}; expected {shape[0]} images of {dtype} from -1 to 1: take the pack again")


def _library(folder: Path):
    try:
        return importlib.import_module("blosc")
    except ImportError as error:
        raise InputError(
            f"{folder}: images of a bcolz pack need blosc; pip install blosc, or take the .bin of the same benchmark"
        ) from error


def _shape(folder: Path) -> tuple[int, ...]:
    shape = _json(folder / "meta" / "sizes").get("shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[1] != 3 or not all(_count(n) for n in shape):
        raise InputError(f"{folder}: meta/sizes has shape {shape}, expected [images, 3, height, width]")
    return tuple(shape)


def _storage(folder: Path) -> tuple[np.dtype, int]:
    held = _json(folder / "meta" / "storage")
    dtype, length = held.get("dtype"), held.get("chunklen")
    if dtype not in ("float32", "float64") or not isinstance(length, int) or length < 1:
        raise InputError(
            f"{folder}: meta/storage has dtype {dtype!r} and chunklen {length!r}, expected float32 and a number"
        )
    return np.dtype(dtype), length


def _count(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _json(path: Path) -> dict:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not readable as JSON ({' '.join(str(error).split())}); take the pack again"
        ) from error
    if not isinstance(held, dict):
        raise InputError(f"{path}: holds a {type(held).__name__}, expected an object: take the pack again")
    return held
