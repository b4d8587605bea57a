"""Writes chosen images of a set as a new one, with contiguous labels and a manifest of what was kept."""

import hashlib
import json
from pathlib import Path

import numpy as np

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.copying import copy_images
from recordio_tools.writer import MANIFEST, DatasetWriter


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
    labels: np.ndarray | None = None,
    like: RecordDataset | None = None,
    force: bool = False,
) -> dict:
    """Copy some images to a new set, identity by identity.

    Args:
        source: the set.
        rows: int64[n], which of its images.
        out: the new data folder.
        choice: how they were chosen, for the manifest, which is then also written as `manifest.json`.
        labels: int64[n], their new labels, contiguous from 0; by default the identities that keep an image are numbered
            in their order. Where new and old labels are not one to one, the new set has no names.
        like: the set whose classes and names the labels are of; so there may be classes without an image.
        force: an existing folder is replaced.

    Returns:
        The manifest: the choice, what the source was, and images per old label before and after.

    Raises:
        RecordError: there are no rows.
    """
    if len(rows) == 0:
        raise RecordError("no image is selected", path=source.folder, kind="empty")
    if labels is None:
        labels = relabel(source.labels[rows], source.num_classes)[source.labels[rows]]
    order = np.argsort(labels, kind="stable")
    rows, labels = rows[order], labels[order]
    classes = int(labels[-1]) + 1 if like is None else like.num_classes
    new, old = np.divmod(np.unique(labels * source.num_classes + source.labels[rows]), source.num_classes)
    one_to_one = len(new) == classes == len(np.unique(old))
    names = [source.names[label] for label in old] if source.names is not None and one_to_one else None
    if like is not None:
        names = like.names
    elif source.list_labels is not None and one_to_one:
        choice = {"list_labels": [source.list_labels[label] for label in old]} | (choice or {})
    manifest = _manifest(source, rows, list(zip(old.tolist(), new.tolist(), strict=True)), choice)
    with DatasetWriter(
        out, classes, source.image_size, names=names, force=force, paths=source.paths_of(rows)
    ) as writer:
        copy_images(source, rows, labels, writer)
        if choice is not None:
            (writer.partial / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    return manifest


def _manifest(source: RecordDataset, rows: np.ndarray, old_and_new: list[tuple[int, int]], choice: dict | None) -> dict:
    classes = source.num_classes
    before = np.bincount(source.labels, minlength=classes)
    after = np.bincount(source.labels[rows], minlength=classes)
    new_label: list[int | None] = [-1] * classes
    for old, new in old_and_new:
        new_label[old] = new if new_label[old] == -1 else None
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
        "by_old_label": {"before": before.tolist(), "after": after.tolist(), "new_label": new_label},
    }
