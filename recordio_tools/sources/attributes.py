"""Attributes of identities from a TSV: `name <tab> value`, or a heading of several attributes and a value of each."""

from collections.abc import Collection
from pathlib import Path

from recordio_tools.errors import UserError

HEADINGS = ("identity", "name")  # what the first cell of a heading says; `synth` writes the second


def read_attributes(path: str | Path) -> dict[str, dict[str, str]]:
    """Value of every attribute for each identity: {attribute: {identity name: value}}, "" where a cell is empty.

    Two columns need no heading and are one attribute, `group`. More need a first line of `identity` or `name` and the
    attributes' names. Blank lines and lines that start with # are passed over. Raises UserError for anything else.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as text ({error}); expected lines of identity<tab>group") from error
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if not rows:
        raise UserError(f"{path}: no lines; expected lines of identity<tab>group")
    heading = rows[0][1][1:] if rows[0][1][0].strip().lower() in HEADINGS else None
    attributes = [name.strip() for name in heading] if heading else ["group"]
    if len(set(attributes)) < len(attributes):
        raise UserError(f"{path}: line {rows[0][0]} names an attribute twice; expected a name for each column")
    groups: dict[str, dict[str, str]] = {attribute: {} for attribute in attributes}
    for number, cells in rows[1:] if heading else rows:
        if len(cells) != len(attributes) + 1:
            raise UserError(
                f"{path}: line {number} has {len(cells)} tab-separated cells, expected {len(attributes) + 1}"
                + ("" if heading else "; for several attributes begin with a line identity<tab>attribute<tab>…")
            )
        name = cells[0].strip()
        if name in groups[attributes[0]]:
            raise UserError(f"{path}: line {number} names {name!r} again; expected one line an identity")
        for attribute, value in zip(attributes, cells[1:], strict=True):
            groups[attribute][name] = value.strip()
    return groups


def check_cover(file: str, attributes: dict[str, dict[str, str]], people: Collection[str], *, partial: bool) -> str:
    """Whom the attributes leave out, in a line; empty where each of the `people` (names) has a value of one of them.

    file: as it is to be named. Raises UserError where nobody has a value, or, unless `partial` is set, not everybody.
    """
    named = {name for values in attributes.values() for name, value in values.items() if value}
    missing = [name for name in people if name not in named]
    if not missing:
        return ""
    if len(missing) == len(people):
        raise UserError(f"{file}: none of the {len(people)} people is in it (such as {missing[0]!r}); give theirs")
    said = f"{file}: {len(missing)} of {len(people)} people are not in it (such as {missing[0]!r})"
    if not partial:
        raise UserError(f"{said}; complete it, or give --partial, which leaves them out of every group")
    return f"{said} and are in no group"
