"""Folders of pictures into a RecordIO set and back."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from recordio_tools.atomic import output_folder
from recordio_tools.dataset import RecordDataset, read_names
from recordio_tools.format.listing import contiguous_labels, format_list, read_image_list, read_list
from recordio_tools.format.pictures import DECODE_ERRORS, Picture
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.selection import MANIFEST
from recordio_tools.writer import NAMES, DatasetWriter

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"})
LIST = "images.lst"
BATCH = 256
THREADS = 4


def find_pictures(folder: Path) -> tuple[list[Picture], list[str]]:
    """Pictures in a folder per identity, and the identities' names: the folders', in natural order.

    Raises RecordError when the folder is missing or holds no such folders; folders without a picture are passed over.
    """
    if not folder.is_dir():
        raise RecordError("no such folder; expected one with a folder per identity", path=folder, kind="missing")
    pictures, names = [], []
    for person in sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=_natural):
        files = sorted((file for file in person.iterdir() if file.suffix.lower() in PICTURES), key=_natural)
        if files:
            pictures += [Picture(file, len(names)) for file in files]
            names.append(person.name)
    if not names:
        problem = f"no folder in it holds a picture ({', '.join(sorted(PICTURES))}); expected a folder per identity"
        raise RecordError(problem, path=folder, kind="empty")
    return pictures, names


def _natural(path: Path) -> list:
    """Sorts s2 before s10."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", path.name)]


def load_jpeg(path: Path, size: int, quality: int = 95, *, reencode: bool = False, as_is: bool = False) -> bytes:
    """The picture as an upright RGB JPEG of size×size pixels: the file's own bytes when they are that already.

    Others are cut to a square about the centre, scaled and encoded; all are with `reencode`, none with `as_is`.
    Raises RecordError when it cannot be decoded.
    """
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            fits = upright and (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
            if as_is or (fits and not reencode):
                image.load()
                return content
            fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    except DECODE_ERRORS as error:
        raise RecordError(f"cannot be decoded as a picture ({type(error).__name__})", path=path, kind="image") from None
    jpeg = BytesIO()
    fitted.save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


def pack_pictures(
    source: Path,
    out: Path,
    *,
    root: Path | None = None,
    size: int = 112,
    quality: int = 95,
    reencode: bool = False,
    as_is: bool = False,
    force: bool = False,
) -> int:
    """Pack a folder per identity, or the pictures of a `.lst` file, into a set; returns the number of images.

    Names are the folders', or for a list those in a `names.txt` beside it. Paths are kept, from the folder or root on.

    Args:
        source: the folder or list.
        out: the new data folder.
        root: where a list's paths begin; by default its folder.
        size: side of the images in pixels.
        quality: of JPEGs that are encoded anew.
        reencode, as_is: encode all pictures anew, or none, as in `load_jpeg`.
        force: an existing folder is replaced.

    Raises:
        RecordError: a folder, list or picture that cannot be read.
    """
    if source.is_file():
        root = source.parent if root is None else root
        pictures = read_list(source, root)
        classes = 1 + max(
            int(picture.label if isinstance(picture.label, int) else picture.label[0]) for picture in pictures
        )
        names = read_names(source.with_name(NAMES))
        classes = max(classes, len(names or []))
    else:
        root = source
        pictures, names = find_pictures(source)
        classes = len(names)
    paths = [_relative(picture.path, root) for picture in pictures]
    load = partial(load_jpeg, size=size, quality=quality, reencode=reencode, as_is=as_is)
    with DatasetWriter(out, classes, (size, size), names=names, force=force, paths=paths) as writer:
        _add(pictures, load, writer)
    return writer.num_images


def pack_listed(
    root: Path,
    listing: Path,
    out: Path,
    *,
    size: int = 112,
    quality: int = 95,
    reencode: bool = False,
    as_is: bool = False,
    force: bool = False,
) -> dict:
    """Pack the pictures that a benchmark's list names (`read_image_list`), with its labels; returns the manifest.

    Labels are made contiguous (`contiguous_labels`); `list_labels` of the manifest holds what they were. Names are
    those of a `names.txt` beside the list, but for a list with the label -1.

    Args:
        root: the folder where the list's paths begin.
        listing: the list.
        out: the new data folder.
        size, quality, reencode, as_is, force: as in `pack_pictures`.

    Raises:
        RecordError: a list without paths or labels, or that names what is not there; a picture that cannot be read.
    """
    if not root.is_dir():
        raise RecordError("no such folder; expected the one where the list's paths begin", path=root, kind="missing")
    listed = read_image_list(listing)
    if listed.by_key or listed.labels is None:
        has = "record keys" if listed.by_key else "no labels"
        raise RecordError(f"has {has}, expected lines of a path and a label", path=listing, kind="list")
    missing = [number for number, path in enumerate(listed.images, 1) if not os.path.isfile(root / path)]
    if missing:
        raise listed.without(missing, f"in {root}")
    list_labels, labels = contiguous_labels(listed.labels)
    names = read_names(listing.with_name(NAMES)) if list_labels[-1] >= 0 else None
    if names is not None and list_labels[-1] >= len(names):
        problem = f"{len(names)} names, and {listing.name} has label {list_labels[-1]}; expected a name for each label"
        raise RecordError(problem, path=listing.with_name(NAMES), kind="names")
    pictures = [Picture(root / path, label) for path, label in zip(listed.images, labels.tolist(), strict=True)]
    named = None if names is None else [names[label] for label in list_labels]
    manifest = {
        "method": "list",
        "list": listing.name,
        "list_labels": list_labels.tolist(),
        "images": len(pictures),
        "identities": len(list_labels),
    }
    load = partial(load_jpeg, size=size, quality=quality, reencode=reencode, as_is=as_is)
    with DatasetWriter(out, len(list_labels), (size, size), names=named, force=force, paths=listed.images) as writer:
        _add(pictures, load, writer)
        (writer.partial / MANIFEST).write_text(json.dumps(manifest) + "\n")
    return manifest


def _add(pictures: list[Picture], load: Callable[[Path], bytes], writer: DatasetWriter) -> None:
    encoded = _encoded(pictures, load)
    for label, jpeg in tqdm(encoded, total=len(pictures), desc="packing", unit="image", delay=2, leave=False):
        writer.add(jpeg, label)


def _relative(path: Path, root: Path) -> str:
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return inside.as_posix().lstrip("/")


def _encoded(pictures: Iterable[Picture], load: Callable[[Path], bytes]) -> Iterator[tuple[int | list[float], bytes]]:
    """Labels and JPEGs in order, a bounded number of pictures ahead in threads (Pillow releases the lock)."""
    remaining = iter(pictures)
    with ThreadPoolExecutor(THREADS) as threads:
        while batch := list(islice(remaining, BATCH)):
            jpegs = threads.map(load, [picture.path for picture in batch])
            yield from zip((picture.label for picture in batch), jpegs, strict=True)


def unpack_pictures(source: RecordDataset, out: Path, *, force: bool = False) -> int:
    """Write every image as it is to `out/<identity's name or label>/<key>.jpg`; returns the number of images.

    `images.lst` (im2rec's dialect) keeps keys and labels, `names.txt` the names, so that packing the list gives the set
    back even where the folders' order would not.
    """
    folders = _folder_names(source)
    entries = []
    with output_folder(out, force=force) as folder:
        for label in np.unique(source.labels):
            (folder / folders[label]).mkdir()
        for i in tqdm(range(len(source)), desc="unpacking", unit="image", delay=2, leave=False):
            header, image = source.record(i)
            suffix = ".png" if bytes(image[:4]) == b"\x89PNG" else ".jpg"
            name = f"{folders[source.labels[i]]}/{source.keys[i]:08d}{suffix}"
            (folder / name).write_bytes(image.data)
            entries.append((int(source.keys[i]), header.labels, name))
        (folder / LIST).write_text(format_list(entries), encoding="utf-8")
        if source.names is not None:
            (folder / NAMES).write_text("".join(f"{name}\n" for name in source.names), encoding="utf-8")
    return len(source)


def _folder_names(source: RecordDataset) -> list[str]:
    """A folder for each identity. A name that is no plain, unique file name is refused: it could lead elsewhere."""
    if source.names is None:
        return [f"{label:06d}" for label in range(source.num_classes)]
    seen = set()
    for label, name in enumerate(source.names):
        if name in seen or name in ("", ".", "..", LIST, NAMES) or re.search(r'[/\\\x00-\x1f:*?"<>|]', name):
            problem = f"name {name!r} of identity {label} cannot be a folder of its own; mend or remove names.txt"
            raise RecordError(problem, path=source.folder, kind="names")
        seen.add(name)
    return source.names
