"""Sub-groups of identities from a TSV: `name <tab> group`, or `identity <tab> attribute …` and a value each."""

from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet


def read_subgroups(path: str | Path) -> dict[str, dict[str, str]]:
    """Value of every attribute for each identity: {attribute: {identity name: value}}.

    Two columns need no header and are one attribute, `group`. More need a first line of `identity` and the attributes'
    names. Blank lines and lines that start with # are passed over. Raises InputError for anything else.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as text ({error}); expected lines of identity<tab>group") from error
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if not rows:
        raise InputError(f"{path}: no lines; expected lines of identity<tab>group")
    header = rows[0][1][1:] if rows[0][1][0].strip().lower() == "identity" else None
    attributes = [name.strip() for name in header] if header else ["group"]
    if len(set(attributes)) < len(attributes):
        raise InputError(f"{path}: line {rows[0][0]} names an attribute twice; expected a name for each column")
    groups: dict[str, dict[str, str]] = {attribute: {} for attribute in attributes}
    for number, cells in rows[1:] if header else rows:
        if len(cells) != len(attributes) + 1:
            raise InputError(
                f"{path}: line {number} has {len(cells)} tab-separated cells, expected {len(attributes) + 1}"
                + ("" if header else "; for several attributes begin with a line identity<tab>attribute<tab>…")
            )
        name = cells[0].strip()
        if name in groups[attributes[0]]:
            raise InputError(f"{path}: line {number} names {name!r} again; expected one line an identity")
        for attribute, value in zip(attributes, cells[1:], strict=True):
            groups[attribute][name] = value.strip()
    return groups


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
