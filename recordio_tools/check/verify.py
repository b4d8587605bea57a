"""Finds every fault of a set: bytes, index, labels, key ranges, images."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recordio_tools.check.decoding import decode_all
from recordio_tools.check.faults import NO_KEY, Fault, collect, fault_at, label_faults, match_index, record_faults
from recordio_tools.check.ranges import header_faults, identity_faults
from recordio_tools.check.unreadable import read_unreadable, rows_of
from recordio_tools.dataset import find_rec, read_names, read_paths, read_property, wrong_labels
from recordio_tools.format.headers import headers_of
from recordio_tools.format.image_records import ImageRecords
from recordio_tools.format.mapping import map_file
from recordio_tools.format.recordio import RecordError
from recordio_tools.format.scan import scan
from recordio_tools.writer import NAMES, PATHS, PROPERTY


class Survey(NamedTuple):
    """What a set holds that is whole, and every fault found."""

    images: ImageRecords  # whole, with a valid label: in the order of their keys, those without one (-1) behind
    left_out: list[tuple[int, int, str]]  # bytes [start, end) that are no such image and no key range, and why
    faults: list[Fault]
    num_classes: int | None  # stated by `property`; None without it
    image_size: tuple[int, int] | None
    names: list[str] | None
    paths: list[str] | None  # of the images, "" for one without a key; None where paths.txt is missing or does not fit


def verify(source: Path, *, decode: bool = False, unreadable: Path | None = None) -> Survey:
    """Survey a set: every byte, the index against the records and the records against it, labels and key ranges.

    Args:
        source: a data folder or `.rec` file.
        decode: every image is decoded as well, on all cores.
        unreadable: a trainer's quarantine.jsonl: what it could not decode is no whole image, whatever decodes it here.

    Raises:
        RecordError: there is nothing to survey: no folder, no `.rec`, or an empty one; or the list is none, or none of
            its images is in the set.
    """
    rec_path = find_rec(source)
    data = map_file(rec_path)
    records, gaps = scan(data)
    keys, in_index, faults = match_index(rec_path.with_suffix(".idx"), records, gaps, len(data))
    headers = headers_of(data, records.offsets)
    stated = collect(lambda: read_property(rec_path.with_name(PROPERTY)), faults)
    classes, size = stated or (None, None)
    names = collect(lambda: read_names(rec_path.with_name(NAMES), classes), faults) if classes else None
    faults += record_faults(data, keys, records, headers)
    faults += label_faults(keys, records.offsets, headers, classes)
    is_range = (headers.image_bytes == 0) & (headers.flag == 2)
    num_images = int(np.count_nonzero(headers.image_bytes > 0))
    is_image = (headers.image_bytes > 0) & ~wrong_labels(headers.label, classes)
    rows = _in_key_order(keys, np.flatnonzero(is_image))
    # What a foreign writer left uncut is framed anew when it is copied, as records in several parts are.
    headers = headers._replace(multipart=headers.multipart | records.foreign)
    every = ImageRecords(rec_path, data, keys, records.offsets, headers)
    images = every.pick(rows)
    faults += _range_faults(every, images, is_range, in_index)
    if decode:
        good = _decode_faults(images, size, faults)
        is_image[rows[~good]] = False
        images = every.pick(rows[good])
    if unreadable is not None:
        good = _listed_faults(images, unreadable, faults)
        is_image[np.isin(records.offsets, images.offsets[~good])] = False
        images = images.pick(np.flatnonzero(good))
    left_out = [(gap.offset, gap.end, gap.kind) for gap in gaps]
    for row in np.flatnonzero(~is_image & ~is_range).tolist():
        left_out.append((int(records.offsets[row]), int(records.ends[row]), "record"))
    paths = _paths(images, num_images, faults)
    faults.sort(key=lambda fault: (-1 if fault.offset is None else fault.offset, fault.key or 0, fault.kind))
    return Survey(images, sorted(left_out), faults, classes, size, names, paths)


def _range_faults(
    every: ImageRecords, images: ImageRecords, is_range: np.ndarray, in_index: np.ndarray | None
) -> list[Fault]:
    """Faults of the header and identity records among `every` record of the file; `images` are the whole ones."""
    faults = []
    is_header, is_identity = is_range & (every.keys == 0), is_range & (every.keys > 0)
    num_images = int(np.count_nonzero(every.headers.image_bytes > 0))
    num_identities = int(np.count_nonzero(is_range & ~is_header))
    for row in np.flatnonzero(is_header).tolist():
        header = float(every.headers.label[row]), float(every.headers.second[row]), int(every.offsets[row])
        faults += header_faults(header, num_images, num_identities, in_index)
    named, rows = images.keys != NO_KEY, np.flatnonzero(is_identity)
    labels = images.headers.label[named].astype(np.int64)
    ranges = every.headers.pick(rows)
    return faults + identity_faults(images.keys[named], labels, every.keys[rows], every.offsets[rows], ranges)


def _paths(images: ImageRecords, num_images: int, faults: list[Fault]) -> list[str] | None:
    """Lines of `paths.txt` by the images' keys: a set that has one numbers its images from 1 in the lines' order.

    `num_images` of the file are whole. Lost images leave lines over, which is no fault of their own.
    """
    path = images.rec_path.with_name(PATHS)
    lines = collect(lambda: read_paths(path), faults)
    if lines is None:
        return None
    keyed = images.keys[images.keys != NO_KEY]
    if len(lines) < num_images or (len(keyed) and not 1 <= keyed.min() <= keyed.max() <= len(lines)):
        problem = f"{path}: {len(lines)} paths for {num_images} images; expected one line for each"
        faults.append(Fault("paths", None, None, problem))
        return None
    return [lines[key - 1] if key != NO_KEY else "" for key in images.keys.tolist()]


def _in_key_order(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows by key; those without one last, as they lie in the file."""
    place = np.where(keys[rows] == NO_KEY, np.iinfo(np.int64).max, keys[rows])
    return rows if (np.diff(place) >= 0).all() else rows[np.argsort(place, kind="stable")]


def _decode_faults(images: ImageRecords, size: tuple[int, int] | None, faults: list[Fault]) -> np.ndarray:
    """Which images decode (bool); adds the others, and those that are not of the stated size, to the faults."""
    good = np.ones(len(images), bool)
    for row, result in decode_all(images):
        if isinstance(result, str):
            good[row] = False
            problem = f"does not decode ({result})"
            faults.append(fault_at("image", images.keys[row], images.offsets[row], problem))
        elif size is not None and result != size:
            problem = f"is {result[0]}x{result[1]}, property states {size[0]}x{size[1]}"
            faults.append(fault_at("size", images.keys[row], images.offsets[row], problem))
    return good


def _listed_faults(images: ImageRecords, path: Path, faults: list[Fault]) -> np.ndarray:
    """Which images a trainer's list does not name (bool); adds the others to the faults."""
    if not path.is_file():
        raise RecordError("no such file; expected the quarantine.jsonl of a run", path=path, kind="list")
    listed = read_unreadable(path)
    found = rows_of(listed, images)
    if listed and not found and not any(fault.kind == "image" for fault in faults):
        raise RecordError("none of its images is in this set: it is of another one", path=path, kind="list")
    good = np.ones(len(images), bool)
    for row, one in found.items():
        good[row] = False
        faults.append(fault_at("image", one.key, images.offsets[row], f"did not decode in training ({one.reason})"))
    return good


def describe_faults(survey: Survey, most: int = 5) -> str:
    """One line per fault: byte offset, key, kind, what is wrong; after `most` that are alike, only their number."""
    lines = [f"{'byte':>14} {'key':>10}  {'kind':<10} fault"] if survey.faults else []
    alike: dict[tuple[str, str], list[str]] = {}
    for kind, key, offset, problem in survey.faults:
        seen = alike.setdefault((kind, re.sub(r"[\d.e+-]+", "0", problem)), [])
        seen.append(problem)
        if len(seen) <= most:
            place = ["-" if value is None else str(value) for value in (offset, key)]
            lines.append(f"{place[0]:>14} {place[1]:>10}  {kind:<10} {problem}")
    for (kind, _), seen in alike.items():
        if len(seen) > most:
            lines.append(f"{'…':>14} {'…':>10}  {kind:<10} {len(seen) - most:,} more like: {seen[0]}")
    lost = sum(end - start for start, end, _ in survey.left_out)
    counted = f"{len(survey.faults):,} faults" if survey.faults else "no fault"
    shown = " (--json lists all)" if any(len(seen) > most for seen in alike.values()) else ""
    lines.append(f"{counted}{shown}; {len(survey.images):,} whole images; {lost:,} bytes belong to none")
    return "\n".join(lines)
