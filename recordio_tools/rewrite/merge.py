"""Joins sets: bytes copied, labels behind each other, or shared where two sets know the same person."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.copying import copy_images
from recordio_tools.writer import DatasetWriter


def merge(
    sources: Sequence[RecordDataset],
    out: Path,
    *,
    by_name: bool = False,
    mapping: Path | None = None,
    force: bool = False,
) -> int:
    """All images of all sources in one set; returns their number.

    The labels of each source follow those of the one before, and names are joined; identities of a source without names
    are then called `<its folder>-<label>`. Paths are kept where every source has them.

    Args:
        sources: the sets.
        out: the new data folder.
        by_name: identities of the same name become one.
        mapping: a file of lines `source<TAB>label<TAB>name`, sources counted from 0 in their order; identities mapped
            to one name become one.
        force: an existing folder is replaced.

    Raises:
        RecordError: image sizes differ, `by_name` without names, a mapping line that does not fit.
    """
    for source in sources[1:]:
        if source.image_size != sources[0].image_size:
            problem = f"image size {source.image_size} differs from {sources[0].image_size} of {sources[0].folder}"
            raise RecordError(problem, path=source.folder, kind="property")
    tokens = _tokens(sources, by_name, mapping)
    label_of = {token: label for label, token in enumerate(dict.fromkeys(chain.from_iterable(tokens)))}
    named = mapping is not None or any(source.names for source in sources)
    names = [_name(sources, token) for token in label_of] if named else None
    labels = [
        np.array([label_of[token] for token in own], np.int64)[source.labels]
        for source, own in zip(sources, tokens, strict=True)
    ]
    rows = [np.argsort(own, kind="stable") for own in labels]
    paths = [source.paths_of(own) for source, own in zip(sources, rows, strict=True)]
    known = [own for own in paths if own is not None]
    joined = list(chain.from_iterable(known)) if len(known) == len(paths) else None
    with DatasetWriter(out, len(label_of), sources[0].image_size, names=names, force=force, paths=joined) as writer:
        for source, own_rows, own_labels in zip(sources, rows, labels, strict=True):
            copy_images(source, own_rows, own_labels[own_rows], writer)
    return writer.num_images


Token = str | tuple[int, int]  # a name shared by several identities, or (source, label) of a single one


def _tokens(sources: Sequence[RecordDataset], by_name: bool, mapping: Path | None) -> list[list[Token]]:
    """For each source and label, what tells its identity from others: equal tokens are one identity."""
    tokens: list[list[Token]] = []
    for number, source in enumerate(sources):
        if not by_name:
            tokens.append([(number, label) for label in range(source.num_classes)])
        elif source.names is not None:
            tokens.append([*source.names])
        else:
            problem = "has no names.txt, so its identities cannot be joined by name"
            raise RecordError(problem, path=source.folder, kind="names")
    if mapping is not None:
        for number, label, name in _read_mapping(mapping, sources):
            tokens[number][label] = name
    return tokens


def _name(sources: Sequence[RecordDataset], token: Token) -> str:
    if isinstance(token, str):
        return token
    number, label = token
    source = sources[number]
    return f"{source.folder.resolve().name}-{label}" if source.names is None else source.names[label]


def _read_mapping(path: Path, sources: Sequence[RecordDataset]) -> list[tuple[int, int, str]]:
    entries = []
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal() and fields[2]):
                problem = f"line {number} is {line.strip()[:40]!r}, expected source<TAB>label<TAB>name"
                raise RecordError(problem, path=path, kind="list")
            source, label = int(fields[0]), int(fields[1])
            if source >= len(sources) or label >= sources[source].num_classes:
                problem = f"line {number}: source {source} label {label} is not among the {len(sources)} sets given"
                raise RecordError(problem, path=path, kind="list")
            entries.append((source, label, fields[2]))
    return entries
