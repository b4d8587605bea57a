"""Sub-groups of probes from a TSV of identities' attributes."""

from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet
from recordio_tools.errors import UserError
from recordio_tools.sources.attributes import read_attributes


def read_subgroups(path: str | Path) -> dict[str, dict[str, str]]:
    """`read_attributes`, as this package raises its mistakes: InputError."""
    try:
        return read_attributes(path)
    except UserError as mistake:
        raise InputError(str(mistake)) from None


def subgroup_masks(path: str | Path, probes: FeatureSet) -> dict[str, dict[str, np.ndarray]]:
    """Which probes (bool, Q) belong to each group: {attribute: {title: mask}}, in order of first mention.

    Identities without a group are in none. A title that another attribute has too is led by its attribute's name.

    Identities are found by their name in names.txt, or by their number where a set has no names. Raises InputError if
    no probe's identity is named in the file.
    """
    names = [probes.name_of(label) for label in np.unique(probes.labels)]
    of_label = dict(zip(np.unique(probes.labels).tolist(), names, strict=True))
    masks: dict[str, dict[str, np.ndarray]] = {}
    taken: set[str] = set()
    for attribute, values in read_subgroups(path).items():
        value_of = {label: values.get(name, "") for label, name in of_label.items()}
        masks[attribute] = {}
        for value in dict.fromkeys(v for v in values.values() if v):
            title = value[:1].upper() + value[1:]
            key = title if title not in taken else f"{attribute} {title}"
            taken.add(key)
            masks[attribute][key] = np.array([value_of[label] == value for label in probes.labels.tolist()])
    if not any(mask.any() for groups in masks.values() for mask in groups.values()):
        raise InputError(f"{path}: names none of the probes' identities (such as {names[0]!r}); check names.txt")
    return masks
