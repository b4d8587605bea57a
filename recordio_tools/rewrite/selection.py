"""Writes chosen images of a set as a new one, with contiguous labels and a manifest of what was kept."""

import hashlib
import json
from pathlib import Path

import numpy as np

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.copying import copy_images
from recordio_tools.writer import DatasetWriter

MANIFEST = "manifest.json"


def relabel(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Old label -> new contiguous label in the same order, int64[num_classes], -1 for identities without an image."""
    present = np.bincount(labels, minlength=num_classes) > 0
    return np.where(present, np.cumsum(present) - 1, -1)


def write_selection(
    source: RecordDataset,
    rows: np.ndarray,
    out: Path,
    *,
    choice: dict | None = None,
    new_label: np.ndarray | None = None,
    force: bool = False,
) -> dict:
    """Copy some images to a new set, identity by identity.

    Args:
        source: the set.
        rows: int64[n], which of its images.
        out: the new data folder.
        choice: how they were chosen, for the manifest, which is then also written as `manifest.json`.
        new_label: int64[classes], the new label of each, contiguous from 0, -1 for what is dropped; by default the
            identities that keep an image are numbered in their order.
        force: an existing folder is replaced.

    Returns:
        The manifest: the choice, what the source was, and images per old label before and after.

    Raises:
        RecordError: there are no rows.
    """
    if len(rows) == 0:
        raise RecordError("no image is selected", path=source.folder, kind="empty")
    if new_label is None:
        new_label = relabel(source.labels[rows], source.num_classes)
    labels = new_label[source.labels[rows]]
    rows = rows[np.argsort(labels, kind="stable")]
    old_label = np.argsort(np.where(new_label < 0, len(new_label), new_label), kind="stable")[: int(labels.max()) + 1]
    names = None if source.names is None else [source.names[old] for old in old_label]
    manifest = _manifest(source, rows, new_label, choice)
    with DatasetWriter(
        out, len(old_label), source.image_size, names=names, force=force, paths=source.paths_of(rows)
    ) as writer:
        copy_images(source, rows, new_label[source.labels[rows]], writer)
        if choice is not None:
            (writer.partial / MANIFEST).write_text(json.dumps(manifest) + "\n")
    return manifest


def _manifest(source: RecordDataset, rows: np.ndarray, new_label: np.ndarray, choice: dict | None) -> dict:
    classes = source.num_classes
    before = np.bincount(source.labels, minlength=classes)
    after = np.bincount(source.labels[rows], minlength=classes)
    return {
        **(choice or {}),
        "source": {
            "name": source.folder.resolve().name,
            "images": len(source),
            "identities": int((before > 0).sum()),
            "rec_bytes": len(source.data),
            "idx_sha256": hashlib.sha256(source.rec_path.with_suffix(".idx").read_bytes()).hexdigest(),
            "labels_sha256": hashlib.sha256(source.labels.astype("<i8").tobytes()).hexdigest(),
        },
        "images": len(rows),
        "identities": int((after > 0).sum()),
        "dropped": np.flatnonzero((before > 0) & (after == 0)).tolist(),
        "by_old_label": {"before": before.tolist(), "after": after.tolist(), "new_label": new_label.tolist()},
    }
