"""Who is who in two sets: by names, by what their lists call the labels, by the folders that their images came from."""

import os

import numpy as np
import xxhash

from facelt.features.stored import FeatureSet
from facelt.images.fingerprint import SAMPLE, fingerprint
from recordio_tools.dataset import RecordDataset

Content = RecordDataset | FeatureSet


def same_images(one: Content, other: Content) -> bool:
    """Whether two sets are one, wherever they lie."""
    if isinstance(one, RecordDataset) and isinstance(other, RecordDataset):
        return fingerprint(one) == fingerprint(other)
    return isinstance(one, FeatureSet) and isinstance(other, FeatureSet) and _rows(one) == _rows(other)


def _rows(features: FeatureSet) -> tuple[object, ...]:
    """A feature set's shape, and hashes of its labels and of some rows."""
    chosen = np.unique(np.linspace(0, len(features) - 1, SAMPLE).astype(np.int64))
    parts = (features.labels, features.rows_ND[chosen])
    return features.rows_ND.shape, *(xxhash.xxh3_64_hexdigest(np.ascontiguousarray(part).tobytes()) for part in parts)


def other_class(train: Content, other: Content) -> tuple[int, str, str] | None:
    """The first label that is another class in `other` than in `train`, and what it is in each; None where none is.

    By names where both sets have them; else by their lists, a set without one having its labels as they are. All labels
    of `other` are classes of `train`.
    """
    present = np.unique(other.labels).tolist()
    if train.names is not None and other.names is not None:
        of_train, of_other, what = train.names, other.names, "{}"
    elif train.list_labels is not None or other.list_labels is not None:
        of_train, of_other = (one.list_labels or range(one.num_classes) for one in (train, other))
        what = "label {} of the list"
    else:
        return None
    for k in present:
        if of_train[k] != of_other[k]:
            return k, what.format(of_other[k]), what.format(of_train[k])
    return None


def known_people(train: Content, strangers: Content) -> list[tuple[int, str]]:
    """The labels of `strangers` who have images in `train`, and by what each is known there.

    By names where both sets have them; else by labels from 0 where both are by lists (strangers of a list have -1), and
    by folders of the images where both have paths, as far as a folder of `train` holds one person alone.
    """
    trained, present = np.unique(train.labels).tolist(), np.unique(strangers.labels).tolist()
    if train.names is not None and strangers.names is not None:
        names = {train.names[k] for k in trained}
        return [(k, strangers.names[k]) for k in present if strangers.names[k] in names]
    found: dict[int, str] = {}
    if train.list_labels is not None and strangers.list_labels is not None:
        labels = {train.list_labels[k] for k in trained} - {-1}
        listed = {k: strangers.list_labels[k] for k in present}
        found |= {k: f"label {label} of the list" for k, label in listed.items() if label in labels}
    if isinstance(train, RecordDataset) and isinstance(strangers, RecordDataset) and train.paths and strangers.paths:
        people: dict[str, set[int]] = {}
        for path, label in zip(train.paths, train.labels.tolist(), strict=True):
            people.setdefault(os.path.dirname(path), set()).add(label)
        own = {folder for folder, labels in people.items() if folder and len(labels) == 1}
        for path, label in zip(strangers.paths, strangers.labels.tolist(), strict=True):
            if (folder := os.path.dirname(path)) in own:
                found.setdefault(label, f"in folder {folder}")
    return sorted(found.items())
