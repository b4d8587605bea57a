"""Some identities of a set, and some images of each."""

from pathlib import Path

import numpy as np

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.selection import write_selection


def first_images(labels: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """Of the ascending indices `rows`, at most the first `most` of each identity."""
    order = np.argsort(labels[rows], kind="stable")
    grouped = labels[rows][order]
    place = np.arange(len(grouped)) - np.searchsorted(grouped, grouped)
    return np.sort(rows[order[place < most]])


def read_identities(path: Path, source: RecordDataset) -> np.ndarray:
    """Labels (int64) of the identities that a file lists, one a line, by name where the set has names, else by label.

    Raises RecordError naming the first line that is no identity of the set.
    """
    known = {str(label): label for label in range(source.num_classes)}
    if source.names is not None:
        known = {name: label for label, name in enumerate(source.names)}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip() not in known:
            what = "label" if source.names is None else "name"
            problem = f"line {number} is {line.strip()[:40]!r}, expected the {what} of an identity of {source.folder}"
            raise RecordError(problem, path=path, kind="list")
    return np.array([known[line.strip()] for line in lines], np.int64)


def subset(
    source: RecordDataset,
    out: Path,
    *,
    identities: range | None = None,
    listed: Path | None = None,
    min_images: int = 1,
    max_images: int | None = None,
    max_per_identity: int | None = None,
    force: bool = False,
) -> dict:
    """A set of the identities that meet every condition given. Labels become contiguous in the same order.

    Args:
        source: the set.
        out: the new data folder.
        identities: a half-open range of labels.
        listed: a file of identities, one a line: names, or labels where the set has no names.
        min_images, max_images: how many images an identity has in the source.
        max_per_identity: only so many first images of each are kept.
        force: an existing folder is replaced.

    Returns:
        The manifest.

    Raises:
        RecordError: a range or list that does not fit the set, or nothing is left.
    """
    labels = range(source.num_classes) if identities is None else identities
    if not 0 <= labels.start < labels.stop <= source.num_classes:
        problem = f"identities {labels.start}:{labels.stop} given, expected a range within 0:{source.num_classes}"
        raise RecordError(problem, path=source.folder, kind="label")
    if max_per_identity is not None and max_per_identity < 1:
        raise RecordError(f"at most {max_per_identity} images per identity given, expected 1 or more", kind="count")
    counts = np.bincount(source.labels, minlength=source.num_classes)
    wanted = (counts >= min_images) & (counts <= (len(source) if max_images is None else max_images))
    wanted &= np.isin(np.arange(source.num_classes), np.array(labels))
    if listed is not None:
        wanted &= np.isin(np.arange(source.num_classes), read_identities(listed, source))
    rows = np.flatnonzero(wanted[source.labels])
    if len(rows) == 0:
        raise RecordError("no identity with an image meets what is asked for", path=source.folder, kind="empty")
    if max_per_identity is not None:
        rows = first_images(source.labels, rows, max_per_identity)
    return write_selection(source, rows, out, force=force)
