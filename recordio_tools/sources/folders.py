"""Folders of pictures into a RecordIO set and back."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from recordio_tools.atomic import output_folder
from recordio_tools.dataset import MOST_CLASSES, RecordDataset, read_names, read_paths
from recordio_tools.format.listing import (
    ImageList,
    contiguous_labels,
    format_list,
    labels_of,
    name_of,
    read_image_list,
    read_list,
)
from recordio_tools.format.pictures import Picture
from recordio_tools.format.recordio import RecordError
from recordio_tools.sources.photographs import (
    BAD,
    Encoding,
    LeftOut,
    find_pictures,
    format_left_out,
    in_threads,
    load_jpeg,
    relative,
)
from recordio_tools.writer import MANIFEST, NAMES, PATHS, DatasetWriter

LIST = "images.lst"
LEFT_OUT = "left_out.tsv"
SPARSE = 100_000  # more identities without an image than this are the gaps of a database's ids


@dataclass(frozen=True)
class Packed:
    """What became of every file.

    Attributes:
        images, identities: what the set holds; identities without an image count too.
        left_out: files that are not in it.
        empty: names or labels of the identities that have no image, in the set or, of folders, left out of it.
        cut: images that were cut from large or oblong pictures, with the face wherever it was.
        deeper: pictures from folders within an identity's folder.
        list_labels: of a list whose labels were made contiguous, what they were; new label k was `list_labels[k]`.
    """

    images: int
    identities: int
    left_out: list[LeftOut]
    empty: list[str]
    cut: int = 0
    deeper: int = 0
    list_labels: list[int] | None = None


def pack_pictures(
    source: Path,
    out: Path,
    how: Encoding = Encoding(),  # noqa: B008 - frozen
    *,
    root: Path | None = None,
    nested: bool = False,
    skip_bad: bool = False,
    force: bool = False,
) -> Packed:
    """Pack a folder per identity, or the pictures of a `.lst` file, into a set; returns what became of every file.

    Names are the folders', or for a list those in a `names.txt` beside it. Paths are kept, from the folder or root on,
    or as a `paths.txt` beside an `images.lst` has them. `left_out.tsv` in the set names the files that are not in it.
    A list's labels are kept, unless float32 headers could not hold them or they leave more than SPARSE gaps: then they
    are made contiguous, and `manifest.json` keeps what they were.

    Args:
        source: the folder or list.
        out: the new data folder.
        how: the images' size and encoding.
        root: where a list's paths begin; by default its folder.
        nested: all pictures may lie deeper than in the identities' folders.
        skip_bad: pictures that cannot be read are left out; an identity that loses all goes with them.
        force: an existing folder is replaced.

    Raises:
        RecordError: a folder or list that cannot be read; or pictures, of which it says how many and the first.
    """
    if not source.is_file():
        found = find_pictures(source, nested=nested)
        paths = [relative(picture.path, source) for picture in found.pictures]
        with DatasetWriter(out, None, (how.size, how.size), names=found.names, force=force, paths=paths) as writer:
            packing = _Packing(writer, how, skip_bad)
            packing.add(found.pictures, paths, contiguous=True)
            writer.names = [found.names[label] for label in packing.new_labels]
            packing.finish(found.left_out)
        empty = found.empty + [found.names[label] for label in packing.without_image(len(found.names))]
        return Packed(writer.num_images, len(writer.names), packing.left_out, empty, packing.cut, found.deeper)
    root = source.parent if root is None else root
    pictures = read_list(source, root)
    names = read_names(source.with_name(NAMES))
    labels = np.array([picture.identity for picture in pictures])
    list_labels = None if names else _sparse(labels)
    if list_labels is not None:
        labels = np.searchsorted(list_labels, labels)
        pictures = [picture.relabelled(label) for picture, label in zip(pictures, labels.tolist(), strict=True)]
    classes = max(int(labels.max()) + 1, len(names or []))
    if classes > MOST_CLASSES:
        problem = f"label {labels.max()}, expected one below {MOST_CLASSES}, above which float32 headers merge people"
        raise RecordError(f"{problem}; remove {NAMES} and labels become contiguous", path=source, kind="label")
    paths = [relative(picture.path, root) for picture in pictures]
    if source.name == LIST:
        paths = read_paths(source.with_name(PATHS), len(pictures)) or paths
    with DatasetWriter(out, classes, (how.size, how.size), names=names, force=force, paths=paths) as writer:
        packing = _Packing(writer, how, skip_bad)
        packing.add(pictures, paths)
        if list_labels is not None:
            manifest = {"method": "list", "list": source.name, "list_labels": list_labels.tolist()}
            (writer.partial / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        packing.finish()
    empty = [str(label) if names is None else names[label] for label in packing.without_image(classes)]
    listed = None if list_labels is None else list_labels.tolist()
    return Packed(writer.num_images, classes, packing.left_out, empty, packing.cut, list_labels=listed)


def _sparse(labels: np.ndarray) -> np.ndarray | None:
    """The labels in their order, where they are to be made contiguous, else None."""
    present = np.unique(labels)
    return present if present[-1] >= MOST_CLASSES or present[-1] + 1 - len(present) > SPARSE else None


def pack_listed(
    root: Path,
    listing: Path,
    out: Path,
    how: Encoding = Encoding(),  # noqa: B008 - frozen
    *,
    like: RecordDataset | None = None,
    skip_bad: bool = False,
    force: bool = False,
) -> Packed:
    """Pack the pictures that a benchmark's list names (`read_image_list`), with its labels; returns what became.

    Labels are made contiguous (`contiguous_labels`); `list_labels` of the manifest holds what they were. Names are
    those of a `names.txt` beside the list, else of the folders where each label has one of its own; a list with the
    label -1 has none.

    Args:
        root: the folder where the list's paths begin.
        listing: the list.
        out: the new data folder.
        like: a set whose labels and names are taken instead, also those of which the list names no picture.
        how, skip_bad, force: as in `pack_pictures`.

    Raises:
        RecordError: a list without paths or labels, or that names what is not there; pictures that cannot be read.
    """
    if not root.is_dir():
        raise RecordError("no such folder; expected the one where the list's paths begin", path=root, kind="missing")
    listed = read_image_list(listing)
    if listed.by_key or listed.labels is None:
        has = "record keys" if listed.by_key else "no labels"
        raise RecordError(f"has {has}, expected lines of a path and a label", path=listing, kind="list")
    missing = [number for number, path in enumerate(listed.images, 1) if not os.path.isfile(root / name_of(path))]
    if missing:
        raise listed.without(missing, f"in {root}")
    if like is None:
        list_labels, labels = contiguous_labels(listed.labels)
        named = _names_of(listed, list_labels, labels)
    else:
        list_labels = np.array(like.list_labels or range(like.num_classes))
        labels = labels_of(listed, list_labels.tolist(), like.folder)
        named = like.names
    pictures = [
        Picture(root / name_of(path), label) for path, label in zip(listed.images, labels.tolist(), strict=True)
    ]
    classes, paths = len(list_labels), listed.images
    with DatasetWriter(out, classes, (how.size, how.size), names=named, force=force, paths=paths) as writer:
        packing = _Packing(writer, how, skip_bad)
        packing.add(pictures, paths)
        manifest = {
            "method": "list",
            "list": listing.name,
            "list_labels": list_labels.tolist(),
            "images": writer.num_images,
            "identities": classes,
        }
        (writer.partial / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        packing.finish()
    empty = [str(list_labels[label]) for label in packing.without_image(classes)]
    return Packed(writer.num_images, classes, packing.left_out, empty, list_labels=list_labels.tolist())


def _names_of(listed: ImageList, list_labels: np.ndarray, labels: np.ndarray) -> list[str] | None:
    """A name for each label, by a names.txt beside the list or by folders that stand for labels one to one.

    Folders within folders make no names, which could be no folders' names again.
    """
    if list_labels[-1] < 0:
        return None
    file = listed.file.with_name(NAMES)
    names = read_names(file)
    if names is not None:
        if list_labels[-1] >= len(names):
            problem = (
                f"{len(names)} names, and {listed.file.name} has label {list_labels[-1]}; expected a name for each"
            )
            raise RecordError(f"{problem} label", path=file, kind="names")
        return [names[label] for label in list_labels]
    pairs = {(label, os.path.dirname(path)) for label, path in zip(labels.tolist(), listed.images, strict=True)}
    found = [folder for _, folder in sorted(pairs)]
    one_to_one = len(pairs) == len(list_labels) == len(set(found))
    return found if one_to_one and all(folder and "/" not in folder for folder in found) else None


class _Packing:
    """Pictures on their way into a set: what cannot be read is collected, and said once at the end.

    Attributes:
        left_out: the pictures that could not be read, and all that `finish` was given.
        new_labels: label in the set of each identity that has an image there, in their order.
        cut: images that were cut from large or oblong pictures.
    """

    def __init__(self, writer: DatasetWriter, how: Encoding, skip_bad: bool):
        self.writer, self.how, self.skip_bad = writer, how, skip_bad
        self.left_out: list[LeftOut] = []
        self.new_labels: dict[int, int] = {}
        self.cut = 0

    def add(self, pictures: list[Picture], paths: Sequence[str], *, contiguous: bool = False) -> None:
        """Encode all pictures and append them; with `contiguous`, identities are numbered as their first images come.

        Raises RecordError, after the last, where some cannot be read and are not to be skipped, or none can.
        """
        bad: list[RecordError] = []
        kept_paths = []
        loaded = in_threads(pictures, lambda picture: load_jpeg(picture.path, self.how, self._landmarks(picture)))
        bar = tqdm(loaded, total=len(pictures), desc="packing", unit="image", delay=2, leave=False)
        for path, (picture, result) in zip(paths, bar, strict=True):
            if isinstance(result, RecordError):
                bad.append(result)
                self.left_out.append(LeftOut(path, BAD, str(result).removeprefix(f"{picture.path}: ")))
            elif self.skip_bad or not bad:
                label = self.new_labels.setdefault(
                    picture.identity, len(self.new_labels) if contiguous else picture.identity
                )
                # A face that was warped is aligned now, and its box and landmarks are where it no longer is.
                more = [1.0] if self._landmarks(picture) else picture.further_labels
                self.writer.add(result.jpeg, [label, *more] if more else label)
                self.cut += result.cut
                kept_paths.append(path)
        if bad and (not self.skip_bad or len(bad) == len(pictures)):
            remedy = "none is left"
            if len(bad) < len(pictures):
                remedy = f"mend them, or give --skip-bad, which leaves them out and lists them in {LEFT_OUT}"
            counted = f"{len(bad):,} of {len(pictures):,} pictures cannot be read"
            raise RecordError(f"{bad[0]}; {counted}: {remedy}", kind="image")
        self.writer.paths = kept_paths

    def _landmarks(self, picture: Picture) -> tuple[float, ...] | None:
        return None if self.how.as_is else picture.landmarks

    def without_image(self, classes: int) -> list[int]:
        """Identities that no image has."""
        return [label for label in range(classes) if label not in self.new_labels]

    def finish(self, further: Sequence[LeftOut] = ()) -> None:
        """Write the list of what is not in the set, with the `further` files that were no pictures to begin with."""
        self.left_out = [*further, *self.left_out]
        if self.left_out:
            (self.writer.partial / LEFT_OUT).write_bytes(format_left_out(self.left_out))


def unpack_pictures(source: RecordDataset, out: Path, *, force: bool = False) -> int:
    """Write every image as it is to `out/<identity's name or label>/<key>.jpg`; returns the number of images.

    `images.lst` (im2rec's dialect) keeps keys and labels, `names.txt` the names, and `paths.txt` the set's paths in
    the list's order, so that packing the list gives the set back even where the folders' order would not.
    """
    folders = _folder_names(source)
    entries = []
    with output_folder(out, force=force) as folder:
        for label in np.unique(source.labels):
            (folder / name_of(folders[label])).mkdir()
        for i in tqdm(range(len(source)), desc="unpacking", unit="image", delay=2, leave=False):
            header, image = source.record(i)
            suffix = ".png" if bytes(image[:4]) == b"\x89PNG" else ".jpg"
            name = f"{folders[source.labels[i]]}/{source.keys[i]:08d}{suffix}"
            (folder / name_of(name)).write_bytes(image.data)
            entries.append((int(source.keys[i]), header.labels, name))
        (folder / LIST).write_text(format_list(entries), encoding="utf-8")
        if source.names is not None:
            (folder / NAMES).write_text("".join(f"{name}\n" for name in source.names), encoding="utf-8")
        if source.paths is not None:
            text = "".join(f"{path}\n" for path in source.paths)
            (folder / PATHS).write_bytes(text.encode(errors="surrogateescape"))
    return len(source)


def _folder_names(source: RecordDataset) -> list[str]:
    """A folder for each identity. A name that is no plain, unique file name is refused: it could lead elsewhere."""
    if source.names is None:
        return [f"{label:06d}" for label in range(source.num_classes)]
    seen = set()
    for label, name in enumerate(source.names):
        if name in seen or name in ("", ".", "..", LIST, NAMES, PATHS) or re.search(r'[/\\\x00-\x1f:*?"<>|]', name):
            problem = f"name {name!r} of identity {label} cannot be a folder of its own; mend or remove names.txt"
            raise RecordError(problem, path=source.folder, kind="names")
        seen.add(name)
    return source.names
