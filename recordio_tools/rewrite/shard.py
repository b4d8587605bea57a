"""Cuts a set into data folders of about the same number of bytes."""

from pathlib import Path

import numpy as np

from recordio_tools.atomic import output_folder
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError, padded
from recordio_tools.rewrite.copying import copy_images
from recordio_tools.writer import DatasetWriter


def cut(sizes: np.ndarray, shards: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Edges (int64[shards + 1]) of consecutive shards whose bytes lie as near to equal as whole items allow.

    `sizes`: int64[n] bytes of each item. With `groups` (int64[n], equal for neighbours that belong together) no group
    is cut. Every shard gets at least one item or group. Raises RecordError when there are fewer of these than shards.
    """
    firsts = np.arange(len(sizes)) if groups is None else np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    if not 1 <= shards <= len(firsts):
        unit = "images" if groups is None else "identities"
        raise RecordError(f"{shards} shards asked for, expected 1 to {len(firsts)}, the number of {unit}", kind="count")
    before = np.append(0, np.cumsum(sizes))
    ends = before[np.append(firsts, len(sizes))]
    edges = [0]
    for shard in range(1, shards):
        wanted = ends[-1] * shard / shards
        nearest = int(np.searchsorted(ends, wanted))
        if nearest and wanted - ends[nearest - 1] < ends[nearest] - wanted:
            nearest -= 1
        edges.append(min(max(nearest, edges[-1] + 1), len(firsts) - (shards - shard)))
    return np.append(np.append(firsts, len(sizes))[edges], len(sizes))


def shard(
    source: RecordDataset, out: Path, shards: int, *, whole_identities: bool = False, force: bool = False
) -> list[int]:
    """Write `out/00000`, `out/00001` …, data folders with the labels and classes of the whole; returns their images.

    Images go to the shards in the order of their keys, or identity by identity when `whole_identities` keeps all
    images of each in one shard. Raises RecordError when there are more shards than images, or than identities with
    images.
    """
    rows = np.arange(len(source))
    if whole_identities:
        rows = np.argsort(source.labels, kind="stable")
    labels = source.labels[rows]
    edges = cut(padded(source.ends - source.offsets)[rows], shards, labels if whole_identities else None)
    with output_folder(out, force=force) as partial:
        for number, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            folder, own = partial / f"{number:05d}", rows[start:stop]
            paths = source.paths_of(own)
            with DatasetWriter(
                folder, source.num_classes, source.image_size, names=source.names, paths=paths
            ) as writer:
                copy_images(source, own, labels[start:stop], writer)
    return np.diff(edges).tolist()
