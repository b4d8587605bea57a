"""Every file of a folder of photographs accounted for: what is a picture of whom, what is none, what cannot be read."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from recordio_tools.format.listing import text_of
from recordio_tools.format.pictures import (
    DECODE_ERRORS,
    HEAD_BYTES,
    Picture,
    looks_like_picture,
    open_picture,
    upright_rgb,
)
from recordio_tools.format.recordio import RecordError
from recordio_tools.sources.warp import warp_face

# Pictures by their names, and to be reported when they are none; other files are pictures by their content.
PICTURES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff", ".gif"}
    | {".heic", ".heif", ".hif", ".avif"}
)
BATCH = 256
THREADS = 4
LARGE, OBLONG = 2, 1.1  # a picture above these times the side, or sides, is hardly an aligned crop
HIDDEN, FOREIGN, NOBODY, BAD = "hidden", "no picture", "in no identity's folder", "unreadable"
T = TypeVar("T")
R = TypeVar("R")


class LeftOut(NamedTuple):
    """A file that is not packed: its path from the folder on, which kind of thing it is, and what is wrong."""

    path: str
    kind: str
    problem: str = ""


class Found(NamedTuple):
    """The files of a folder of identities."""

    pictures: list[Picture]
    names: list[str]  # of the identities: the folders', in natural order
    left_out: list[LeftOut]
    empty: list[str]  # folders that hold no picture
    deeper: int  # pictures that lie in folders within an identity's


def find_pictures(folder: Path, *, nested: bool = False) -> Found:
    """Pictures per identity, each a folder in `folder`, at any depth; all other files are accounted for.

    Args:
        folder: where the identities' folders are.
        nested: pictures may all lie deeper than in the identities' folders.

    Raises:
        RecordError: the folder is missing, or no folder in it holds a picture, or none holds one itself and `nested`
            is not set: then the folders may be those of a split, and the people one down.
    """
    if not folder.is_dir():
        raise RecordError("no such folder; expected one with a folder per identity", path=folder, kind="missing")
    pictures, names, left_out, empty, deeper = [], [], [], [], 0
    for entry in sorted(folder.iterdir(), key=_natural):
        if not entry.is_dir():
            kind = _kind(entry, folder)
            left_out.append(LeftOut(entry.name, kind or NOBODY))
            continue
        files = []
        for file in files_below(entry):
            if kind := _kind(file, folder):
                left_out.append(LeftOut(relative(file, folder), kind))
            else:
                files.append(file)
        if files:
            pictures += [Picture(file, len(names)) for file in files]
            deeper += sum(file.parent != entry for file in files)
            names.append(text_of(entry.name))
        elif not entry.name.startswith("."):
            empty.append(text_of(entry.name))
    if not names:
        problem = "no folder in it holds a picture; expected a folder per identity"
        if lost := sum(one.kind == NOBODY for one in left_out):
            problem = f"{problem}, and {lost:,} pictures lie beside them: put each person's into a folder"
        raise RecordError(problem, path=folder, kind="empty")
    if deeper == len(pictures) and not nested:
        example = relative(pictures[0].path, folder)
        problem = f"all its pictures lie two folders deep or more ({example}); expected a folder per identity in it"
        raise RecordError(
            f"{problem}: name the folder above the people, or give --nested if the people are {names[0]!r} and so on",
            path=folder,
            kind="nested",
        )
    return Found(pictures, names, left_out, empty, deeper)


def find_files(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """The pictures in a folder at any depth, and the other files. Raises RecordError without such a folder."""
    if not folder.is_dir():
        raise RecordError("no such folder; expected one with photographs", path=folder, kind="missing")
    kinds = {file: _kind(file, folder) for file in files_below(folder)}
    left_out = [LeftOut(relative(file, folder), kind) for file, kind in kinds.items() if kind]
    return [file for file, kind in kinds.items() if kind is None], left_out


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder at any depth, in natural order; links to folders are followed, but in no circle."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort(key=lambda name: _natural(Path(name)))
        yield from sorted((Path(place, name) for name in files), key=_natural)


def _natural(path: Path) -> list:
    """Sorts s2 before s10."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"([0-9]+)", path.name)]


def _kind(file: Path, folder: Path) -> str | None:
    """Why a file below `folder` is no picture to pack; None where it is one."""
    # Among the hidden is ._NAME, which macOS leaves beside each NAME on other file systems.
    if any(part.startswith(".") for part in file.relative_to(folder).parts):
        return HIDDEN
    if file.suffix.lower() in PICTURES:
        return None
    try:
        with open(file, "rb") as opened:
            return None if looks_like_picture(opened.read(HEAD_BYTES)) else FOREIGN
    except OSError:
        return FOREIGN


def relative(path: Path, root: Path) -> str:
    """A path from `root` on where it lies within, in POSIX form."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return text_of(inside.as_posix()).lstrip("/")


@dataclass(frozen=True)
class Encoding:
    """How pictures become the images of a set.

    Attributes:
        size: side of the images in pixels.
        quality: of JPEGs that are encoded anew.
        reencode: encode all anew, even RGB JPEGs of the right size.
        as_is: store all files as they are, whatever size and format.
        swap_channels: red and blue change places, for pictures that were stored as BGR.
    """

    size: int = 112
    quality: int = 95
    reencode: bool = False
    as_is: bool = False
    swap_channels: bool = False

    def __post_init__(self) -> None:
        if self.as_is and self.swap_channels:
            raise RecordError("--as-is and --swap-channels given, which exclude each other", kind="choice")


class Loaded(NamedTuple):
    """An image for a set, and whether it was cut from a large or oblong picture, with the face wherever it is."""

    jpeg: bytes
    cut: bool


def load_jpeg(path: Path, how: Encoding, landmarks: Sequence[float] | None = None) -> Loaded:
    """The picture as an upright RGB JPEG: the file's own bytes when they are that already.

    Others are warped by their landmarks (x0…x4, y0…y4), or cut to a square about the centre and scaled, and encoded.
    Raises RecordError when it cannot be decoded.
    """
    size = how.size
    with explained(path):
        content = path.read_bytes()
        with open_picture(content) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            fits = upright and (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
            if how.as_is or (fits and not (how.reencode or how.swap_channels or landmarks)):
                image.load()
                return Loaded(content, cut=False)
            picture = upright_rgb(image)
        if landmarks is not None:
            fitted, cut = warp_face(picture, np.array(landmarks).reshape(2, 5).T, size), False
        else:
            fitted = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
            cut = min(picture.size) > LARGE * size or max(picture.size) > OBLONG * min(picture.size)
    if how.swap_channels:
        fitted = Image.merge("RGB", fitted.split()[::-1])
    return Loaded(jpeg_bytes(fitted, how.quality), cut)


def load_rgb(file: Path) -> Image.Image:
    """A photograph, upright, in RGB. Raises RecordError when it cannot be decoded."""
    with explained(file), open_picture(file.read_bytes()) as image:
        return upright_rgb(image)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever Pillow raises of a picture becomes a RecordError that names it."""
    try:
        yield
    except DECODE_ERRORS as error:
        reason = type(error).__name__ + (f": {error}" if type(error) is ValueError else "")
        raise RecordError(f"cannot be decoded as a picture ({reason})", path=path, kind="image") from None


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    """An RGB image as a JPEG."""
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


def in_threads(items: Iterable[T], work: Callable[[T], R], batch: int = BATCH) -> Iterator[tuple[T, R | RecordError]]:
    """Items with what `work` returns of them, in order, a bounded number ahead in threads (Pillow releases the lock).

    A RecordError is returned, not raised: one bad file is not the end of all.
    """

    def attempt(item: T) -> R | RecordError:
        try:
            return work(item)
        except RecordError as error:
            return error

    remaining = iter(items)
    with ThreadPoolExecutor(THREADS) as threads:
        while some := list(islice(remaining, batch)):
            yield from zip(some, threads.map(attempt, some), strict=True)


def format_left_out(left_out: list[LeftOut]) -> bytes:
    """A line for each file: kind, problem, path, parted by tabs. File names may be no UTF-8."""
    lines = ("\t".join((one.kind, one.problem, one.path)).replace("\n", " ") for one in left_out)
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def count_kinds(left_out: list[LeftOut]) -> str:
    """`3 hidden, 2 no picture`."""
    return ", ".join(f"{count:,} {kind}" for kind, count in Counter(one.kind for one in left_out).items())
