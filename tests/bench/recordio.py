"""Speed and memory of recordio_tools on a set with the shape of MS1MV2, against plain references in the same run.

    python tests/bench/recordio.py [--scale 1.0] [--payload 512] [--folder DIR]

Writes a set of 5,822,653 images of 85,742 identities (times --scale) with small random payloads into a temporary
folder, measures, prints one line per figure, and removes everything. Needs about four times the set's size on disk
(3.2 GB at full scale with the default payload). Each measurement runs in a process of its own, whose peak memory it
reports.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recordio_tools.check.verify import verify
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.format.mapping import map_file
from recordio_tools.format.recordio import IMAGE_HEAD, MAGIC, PART_HEAD
from recordio_tools.format.scan import scan
from recordio_tools.rewrite.curate import READINGS, curate
from recordio_tools.rewrite.shuffle import shuffle

IMAGES, IDENTITIES, KEPT = 5_822_653, 85_742, 887_500
SPREAD = 0.75  # sigma of the log-normal tail: MS1MV2's counts run from a few to some 600 about a mean of 68
LARGE_SHARE, LARGE_PAYLOAD = 0.05, 7000
CHUNK = 1 << 14


def tail(images: int, identities: int) -> np.ndarray:
    """Images per identity, int64[identities], log-normal between 2 and nine times the mean, with the given sum."""
    counts = np.random.default_rng(0).lognormal(0, SPREAD, identities)
    mean = images / identities
    counts = np.clip(np.rint(counts * mean / counts.mean()), 2, 9 * mean).astype(np.int64)
    while difference := images - int(counts.sum()):
        rows = np.flatnonzero(counts > 2)[: abs(difference)]
        counts[rows] += np.sign(difference)
    return counts


def write_set(folder: Path, scale: float, payload: int) -> None:
    """A set of random payloads of payload ± 15 % bytes, all lengths modulo 4, no word of them the magic word."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(int(IDENTITIES * scale)), tail(int(IMAGES * scale), int(IDENTITIES * scale)))
    with DatasetWriter(folder, int(IDENTITIES * scale), (112, 112)) as writer:
        for start in range(0, len(labels), CHUNK):
            part = labels[start : start + CHUNK]
            length = rng.integers(int(payload * 0.85), int(payload * 1.15) + 1, len(part)) + IMAGE_HEAD.size
            words = PART_HEAD.size // 4 + (length + 3) // 4
            at = np.cumsum(words) - words
            content = rng.integers(0, 2**31, int(words.sum()), dtype=np.uint32)  # the magic word has the upper bit set
            content[at], content[at + 1] = MAGIC, length
            content[at + 2] = 0
            content[at + 3] = part.astype("<f4").view("<u4")
            content[at + 4], content[at + 5] = start + 1 + np.arange(len(part)), 0
            content[at + 6] = content[at + 7] = 0
            content[at + words - 1] &= np.array([0xFFFFFFFF, 0xFF, 0xFFFF, 0xFFFFFF], "<u4")[length % 4]
            writer.add_framed(writer.rec_writer.write_framed(content.view(np.uint8).data) + at * 4, part)


class Cost(NamedTuple):
    """What a call took: seconds on the clock and of the processor, peak memory in MB; and its result."""

    seconds: float
    processor: float
    memory: float
    result: object


def measured(function: Callable, *arguments) -> Cost:
    """The cost of a call in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        cost = pool.apply(_measure, (function, arguments))
        pool.close()
        pool.join()
    return cost


def _measure(function: Callable, arguments: tuple) -> Cost:
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return Cost(time.perf_counter() - clock, time.process_time() - processor, memory, result)


def read_labels(folder: Path) -> int:
    return len(RecordDataset(folder).labels)


def scan_file(folder: Path) -> int:
    return len(scan(map_file(folder / "train.rec"))[0].offsets)


def mxnet_loop(folder: Path) -> int:
    np.bool = bool  # this mxnet still names it
    from mxnet import recordio

    reader, count = recordio.MXRecordIO(str(folder / "train.rec"), "r"), 0
    while reader.read() is not None:
        count += 1
    return count


def run_curate(folder: Path, out: Path, images: int | None, reading: str) -> tuple[int, int]:
    manifest = curate(RecordDataset(folder), out, images=images, reading=reading, seed=0)
    return manifest["images"], manifest["identities"]


def copy_records(folder: Path, kept: int, out: Path) -> float:
    """Seconds to copy the bytes of so many records the plain way, to the disk: seek, read, write, one at a time."""
    source = RecordDataset(folder)
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:kept])
    places = list(zip(source.offsets[rows].tolist(), (source.ends - source.offsets)[rows].tolist(), strict=True))
    start = time.perf_counter()
    with open(source.rec_path, "rb", buffering=0) as file, open(out, "wb") as copy:
        for offset, size in places:
            file.seek(offset)
            copy.write(file.read(size))
        copy.flush()
        os.fsync(copy.fileno())
    return time.perf_counter() - start


def run_shuffle(folder: Path, out: Path, memory: int) -> int:
    return shuffle(RecordDataset(folder), out, seed=0, memory=memory)


def run_verify(folder: Path) -> int:
    return len(verify(folder).faults)


def copy_file(source: Path, target: Path) -> float:
    """Seconds of `cp`, and of `sync` where it makes a file: the commands flush what they write to the disk too."""
    start = time.perf_counter()
    assert os.system(f"cp '{source}' '{target}'") == 0
    if target.is_file():
        assert os.system(f"sync '{target}'") == 0
    seconds = time.perf_counter() - start
    if target.is_file():
        target.unlink()
    return seconds


def report(name: str, cost: Cost, figure: str) -> None:
    times = f"{cost.seconds:7.1f} s ({cost.processor:5.1f} s of processor)"
    print(f"{name:<32} {times}  peak {cost.memory:6,.0f} MB  {figure}", flush=True)


def bench(folder: Path, scale: float, payload: int) -> None:
    data = folder / "set"
    cost = measured(write_set, data, scale, payload)
    size = (data / "train.rec").stat().st_size
    report("write the set", cost, f"{size / 1e6:,.0f} MB")

    copy_file(data / "train.rec", Path(os.devnull))  # warms the cache, where it is large enough
    cost = measured(read_labels, data)
    report("labels of all records, warm", cost, f"{cost.result:,} images; limit 20 s, 1,000 MB")

    own = measured(scan_file, data)
    report("full scan", own, f"{own.result:,} records, {size / own.seconds / 1e6:,.0f} MB/s")
    theirs = measured(mxnet_loop, data)
    assert theirs.result == own.result
    report("mxnet: read() of every record", theirs, f"{theirs.seconds / own.seconds:.1f} x our time; limit 10 x")

    cost = measured(run_verify, data)
    report(
        "verify without decoding", cost, f"{size / cost.seconds / 1e6:,.0f} MB/s, {cost.result} faults; limit 500 MB/s"
    )

    for reading in READINGS:
        bench_curate(folder, data, reading, scale)

    bench_shuffle(folder, data)
    shutil.rmtree(data)
    measured(write_set, data, scale * LARGE_SHARE, LARGE_PAYLOAD)
    print(f"a twentieth of the images, of {LARGE_PAYLOAD:,} bytes, as in MS1MV2:", flush=True)
    bench_shuffle(folder, data)
    cost = measured(run_verify, data)
    size = (data / "train.rec").stat().st_size
    report(
        "verify without decoding", cost, f"{size / cost.seconds / 1e6:,.0f} MB/s, {cost.result} faults; limit 500 MB/s"
    )


def bench_shuffle(folder: Path, data: Path) -> None:
    """The better of two runs on either side: the first pays for fresh pages."""
    size = (data / "train.rec").stat().st_size
    copied = min(copy_file(data / "train.rec", folder / "copy") for _ in range(2))
    for share, name in ((2, "one bucket"), (0.2, "in buckets")):
        costs = []
        for _ in range(2):
            costs.append(measured(run_shuffle, data, folder / "shuffled", int(size * share)))
            shutil.rmtree(folder / "shuffled")
        best = min(costs)
        report(f"shuffle, {name}", best, f"{best.seconds / copied:.1f} x cp ({copied:.1f} s); limit 4 x")


def bench_curate(folder: Path, data: Path, reading: str, scale: float) -> None:
    out = folder / reading
    images = None if reading == "literal" else int(KEPT * scale)
    cost = measured(run_curate, data, out, images, reading)
    images, identities = cost.result
    remain = f"{images:,} images, {identities:,} of {int(IDENTITIES * scale):,} identities remain"
    report(f"curate, {reading}", cost, f"{remain}; limit 60 s, 2,000 MB")
    plain = measured(copy_records, data, images, folder / "copy").result
    copied = copy_file(out / "train.rec", folder / "copy")
    against = f"{cost.seconds / plain:.1f} x a plain copy of as many records ({plain:.1f} s; limit 3 x)"
    print(f"{'':<32} {against}, {cost.seconds / copied:.1f} x cp of the kept bytes ({copied:.1f} s)", flush=True)
    shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of MS1MV2's images and identities (default 1)")
    parser.add_argument("--payload", type=int, default=512, help="mean bytes of an image (default 512)")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="recordio-bench-") as folder:
        bench(Path(folder), args.scale, args.payload)


if __name__ == "__main__":
    sys.exit(main())
