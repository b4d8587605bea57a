"""New sets from old ones: bytes copied, never re-encoded; identity records rebuilt from the labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recordio_tools.copying import copy_images
from recordio_tools.curate import write_selection
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.recordio import RecordError


def merge(sources: Sequence[RecordDataset], out: Path, *, force: bool = False) -> int:
    """All images of all sources in one set, each source's labels behind those of the one before; returns the count.

    Names are joined; identities of a source without names are then called `<its folder>-<label>`.
    Raises RecordError when the image sizes differ.
    """
    for source in sources[1:]:
        if source.image_size != sources[0].image_size:
            problem = f"image size {source.image_size} differs from {sources[0].image_size} of {sources[0].folder}"
            raise RecordError(problem, path=source.folder, kind="property")
    classes = sum(source.num_classes for source in sources)
    names = None
    if any(source.names for source in sources):
        names = [name for source in sources for name in _names(source)]
    with DatasetWriter(out, classes, sources[0].image_size, names=names, force=force) as writer:
        first_label = 0
        for source in sources:
            rows = np.argsort(source.labels, kind="stable")
            copy_images(source, rows, source.labels[rows] + first_label, writer)
            first_label += source.num_classes
    return writer.num_images


def _names(source: RecordDataset) -> list[str]:
    if source.names is not None:
        return source.names
    return [f"{source.folder.resolve().name}-{label}" for label in range(source.num_classes)]


def select(labels: np.ndarray, identities: np.ndarray, max_per_identity: int | None = None) -> np.ndarray:
    """Indices (ascending) of the images of these identities, at most the first `max_per_identity` of each."""
    rows = np.flatnonzero(np.isin(labels, identities))
    if max_per_identity is None:
        return rows
    order = np.argsort(labels[rows], kind="stable")
    grouped = labels[rows][order]
    place = np.arange(len(grouped)) - np.searchsorted(grouped, grouped)
    return np.sort(rows[order[place < max_per_identity]])


def subset(
    source: RecordDataset,
    out: Path,
    *,
    identities: range | None = None,
    max_per_identity: int | None = None,
    force: bool = False,
) -> dict:
    """A set of some identities (half-open label range) and at most so many of their first images; returns the manifest.

    Labels become contiguous in the same order; identities without an image drop out.
    Raises RecordError when the range is outside the set's labels or nothing is left.
    """
    labels = range(source.num_classes) if identities is None else identities
    if not 0 <= labels.start < labels.stop <= source.num_classes:
        problem = f"identities {labels.start}:{labels.stop} given, expected a range within 0:{source.num_classes}"
        raise RecordError(problem, path=source.folder, kind="label")
    if max_per_identity is not None and max_per_identity < 1:
        raise RecordError(f"at most {max_per_identity} images per identity given, expected 1 or more", kind="count")
    rows = select(source.labels, np.array(labels), max_per_identity)
    if len(rows) == 0:
        raise RecordError(f"identities {labels.start}:{labels.stop} have no image", path=source.folder, kind="empty")
    return write_selection(source, rows, out, force=force)
