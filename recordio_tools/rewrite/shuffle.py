"""A global permutation of the images in a set's file, in bounded memory.

Keys, labels and key ranges stay as they are: only where the images lie changes, and the index with it. So a reader that
goes through the file from front to end (DALI's does) meets them in random order.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from recordio_tools.atomic import output_folder
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.index import format_index
from recordio_tools.format.mapping import map_file, release
from recordio_tools.format.recordio import RecordError, decode, padded
from recordio_tools.rewrite.copying import portions, write_slices
from recordio_tools.writer import IDX, MANIFEST, NAMES, PATHS, PROPERTY, REC

MEMORY = 1 << 30
MOST_BUCKETS = 512  # files open at once


class Plan(NamedTuple):
    """Where every image goes: byte offsets count from the first image of the new file."""

    order: np.ndarray  # int64[N]: images in their new order
    starts: np.ndarray  # int64[N]: new first byte of each image
    sizes: np.ndarray  # int64[N]: bytes of each record
    bucket: np.ndarray  # int64[N]: bucket of each image, by its new place
    buckets: int


def permutation(seed: int, count: int) -> np.ndarray:
    """A uniformly random order of `count` rows, the same on every machine: a stable sort of the raw PCG64 stream."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def make_plan(source: RecordDataset, seed: int, memory: int) -> Plan:
    """The new order, and the buckets of at most `memory` bytes that it is put together from. Raises RecordError."""
    order = permutation(seed, len(source))
    sizes = padded(source.ends - source.offsets)
    starts = np.empty(len(source), np.int64)
    starts[order] = np.cumsum(sizes[order]) - sizes[order]
    total = int(sizes.sum())
    buckets = max(1, -(-total // max(memory, 1)))
    if buckets > MOST_BUCKETS:
        problem = f"{memory} bytes of memory given, {total} bytes of images need {-(-total // MOST_BUCKETS)} or more"
        raise RecordError(problem, path=source.folder, kind="count")
    return Plan(order, starts, sizes, starts // -(-total // buckets), buckets)


def shuffle(source: RecordDataset, out: Path, *, seed: int = 0, memory: int = MEMORY, force: bool = False) -> int:
    """Write the set with its images in a seeded random order; returns their number.

    The header record comes first, identity records last. When the images take more than `memory` bytes, one pass over
    the source sorts them into buckets on disk, inside the unfinished output, and each bucket is then put in order.
    Raises RecordError when `memory` is too small for the set.
    """
    plan = make_plan(source, seed, memory)
    by_key = np.argsort(source.range_keys, kind="stable")
    ranges = [_range_record(source, row) for row in by_key.tolist()]
    range_sizes = np.array([len(record) for record in ranges], np.int64)
    first = 1 if len(ranges) and source.range_keys[by_key[0]] == 0 else 0
    with output_folder(out, force=force) as partial:
        with open(partial / REC, "wb") as file:
            file.write(b"".join(ranges[:first]))
            _write_images(source, plan, file, partial)
            file.write(b"".join(ranges[first:]))
        before = int(range_sizes[:first].sum())
        at = np.cumsum(range_sizes) - range_sizes
        at[first:] += int(plan.sizes.sum())
        keys = np.concatenate([source.keys, source.range_keys[by_key]])
        offsets = np.concatenate([before + plan.starts, at])
        ascending = np.argsort(keys, kind="stable")
        (partial / IDX).write_bytes(format_index(keys[ascending], offsets[ascending]))
        for name in (PROPERTY, NAMES, PATHS, MANIFEST):
            if (source.folder / name).is_file():
                (partial / name).write_bytes((source.folder / name).read_bytes())
    return len(source)


def _range_record(source: RecordDataset, row: int) -> bytes:
    offset = int(source.range_offsets[row])
    _, end = decode(source.data, offset, path=source.rec_path, key=int(source.range_keys[row]))
    return source.data[offset:end].tobytes().ljust(padded(end - offset), b"\0")


def _write_images(source: RecordDataset, plan: Plan, file: BinaryIO, folder: Path) -> None:
    passes = 1 if plan.buckets == 1 else 2
    with tqdm(
        total=passes * int(plan.sizes.sum()), desc="shuffling", unit="B", unit_scale=True, delay=2, leave=False
    ) as bar:
        if plan.buckets == 1:
            _write_in_order(file, source.data, source.offsets[plan.order], plan.sizes[plan.order], bar)
            return
        in_file = np.argsort(source.offsets, kind="stable")
        with TemporaryDirectory(dir=folder) as temporary:
            paths = [Path(temporary) / str(number) for number in range(plan.buckets)]
            _deal(source, plan, in_file, paths, bar)
            for number, path in enumerate(paths):
                if path.stat().st_size == 0:
                    continue  # a record longer than a bucket leaves the next one empty
                rows = in_file[plan.bucket[in_file] == number]
                data = map_file(path)
                path.unlink()  # the map keeps it until it is written
                at = np.cumsum(plan.sizes[rows]) - plan.sizes[rows]
                order = np.argsort(plan.starts[rows], kind="stable")
                _write_in_order(file, data, at[order], plan.sizes[rows][order], bar)


def _deal(source: RecordDataset, plan: Plan, in_file: np.ndarray, paths: list[Path], bar: tqdm) -> None:
    """Append every image, in the order of the source file, to the file of its bucket."""
    files = [open(path, "wb") for path in paths]  # noqa: SIM115 - closed below
    try:
        for part in portions(plan.sizes[in_file]):
            rows = in_file[part]
            rows = rows[np.argsort(plan.bucket[rows], kind="stable")]
            edges = np.searchsorted(plan.bucket[rows], np.arange(plan.buckets + 1))
            for file, start, stop in zip(files, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                own = rows[start:stop]
                write_slices(file, source.data, source.offsets[own], plan.sizes[own])
            bar.update(int(plan.sizes[rows].sum()))
            release(source.data)
    finally:
        for file in files:
            file.close()


def _write_in_order(file: BinaryIO, data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, bar: tqdm) -> None:
    for part in portions(sizes):
        write_slices(file, data, offsets[part], sizes[part])
        bar.update(int(sizes[part].sum()))
