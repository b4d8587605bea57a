"""Sub-groups of probes from a TSV of identities' attributes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet
from recordio_tools.errors import UserError
from recordio_tools.sources.attributes import check_cover, read_attributes


def read_subgroups(path: str | Path) -> dict[str, dict[str, str]]:
    """`read_attributes`, as this package raises its mistakes: InputError."""
    try:
        return read_attributes(path)
    except UserError as mistake:
        raise InputError(str(mistake)) from None


@dataclass(frozen=True)
class Subgroups:
    """masks: which probes (bool, Q) belong to each group: {attribute: {title: mask}}, in order of first mention.

    left_out: whom the file leaves out of all groups, in words; empty where nobody.
    """

    masks: dict[str, dict[str, np.ndarray]]
    left_out: str


def find_subgroups(path: str | Path, probes: FeatureSet, *, partial: bool = False) -> Subgroups:
    """The groups that a file puts the probes into.

    A title that another attribute has too is led by its attribute's name. Identities are found by their name in
    names.txt, or by their number where a set has no names. partial: the file may leave some of them out. Raises
    InputError if it does otherwise, or names none of them.
    """
    names = [probes.name_of(label) for label in np.unique(probes.labels)]
    of_label = dict(zip(np.unique(probes.labels).tolist(), names, strict=True))
    masks: dict[str, dict[str, np.ndarray]] = {}
    taken: set[str] = set()
    attributes = read_subgroups(path)
    try:
        left_out = check_cover(str(path), attributes, names, partial=partial)
    except UserError as mistake:
        raise InputError(str(mistake)) from None
    for attribute, values in attributes.items():
        value_of = {label: values.get(name, "") for label, name in of_label.items()}
        masks[attribute] = {}
        for value in dict.fromkeys(v for v in values.values() if v):
            title = value[:1].upper() + value[1:]
            key = title if title not in taken else f"{attribute} {title}"
            taken.add(key)
            masks[attribute][key] = np.array([value_of[label] == value for label in probes.labels.tolist()])
    return Subgroups(masks, left_out)
