"""Identification against bare FAISS, in one run on one machine: python tests/bench/identify.py [--gallery 1M].

Each figure is a ratio to faiss.IndexFlatIP with everything in memory, k = 1. The product's run streams its gallery from
disk and ranks every ordered pair of probes, exactly, to the end of the gallery. Each measurement is a process of its
own, so that peak memory means something; the two are taken in turn, `--rounds` times, and the best of each is used.

OpenBLAS and MKL choose their kernel by the processor's name, and may miss by 2 to 4 times. So both sides are first
tried under each of KERNELS, in processes of their own, and each is measured under its best, which is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TRAIN = 887_500  # the training images of MS1M-LT
TARGET = 0.75  # of FAISS at its best, by CPU time, where the processor multiplies bfloat16
# what a BLAS is told of its processor; one that cannot run a kernel dies, and is left out
KERNELS = (
    {},
    *({"OPENBLAS_CORETYPE": name} for name in ("SapphireRapids", "Cooperlake", "SkylakeX", "Haswell", "Zen")),
    *({"MKL_ENABLE_INSTRUCTIONS": name} for name in ("AVX512", "AVX2")),
)


def lengths(dimension: int, decay: float | None) -> np.ndarray:
    """What each dimension is multiplied by, so that the features' variances fall as exp(-i/decay); ones for None."""
    return np.exp(-np.arange(dimension) / (2 * (decay or np.inf))).astype(np.float32)


def write_gallery(path: Path, rows: int, lengths_D: np.ndarray) -> None:
    """Random rows straight to disk, 64K at a time."""
    from megaface_eval.features.feature_set import spans
    from megaface_eval.features.simulate import UniformRows

    path.mkdir()
    dimension = len(lengths_D)
    source = UniformRows(rows, dimension, 0)
    stored = np.lib.format.open_memmap(path / "features.npy", "w+", np.float32, (rows, dimension))
    for start, stop in spans(rows, 65536):
        block = source.read(start, stop) * lengths_D
        stored[start:stop] = block / np.linalg.norm(block, axis=1, keepdims=True)
    stored.flush()
    np.save(path / "labels.npy", np.zeros(rows, np.int64))


def peak() -> float:
    """This process's peak memory, GB. (getrusage would hand down the peak of the process that started this one.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


class Watch:
    """Seconds by the wall, and of CPU: the fairer of the two where others use the machine."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict:
        return {"seconds": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu, "peak_gb": peak()}


def measure_flat(folder: Path, rows: int) -> dict:
    """Bare IndexFlatIP, k = 1, all in memory; only the search is timed."""
    import faiss

    from megaface_eval.features.feature_set import load_features, spans

    probes = np.load(folder / "probes/features.npy")
    index = faiss.IndexFlatIP(probes.shape[1])
    gallery = load_features(folder / "gallery")
    for start, stop in spans(rows, 65536):
        index.add(gallery.stored.read(start, stop))
    watch = Watch()
    index.search(probes, 1)
    return watch.read()


def measure_identify(folder: Path, rows: int, search: str) -> dict:
    """Devkit identification from disk: reading, scaling and ranking are timed."""
    from megaface_eval.features.feature_set import load_features
    from megaface_eval.features.gallery import Gallery, nested_sizes
    from megaface_eval.processes import Processes
    from megaface_eval.protocols.identification import Rules, identify
    from megaface_eval.protocols.probes import Probes
    from megaface_eval.search.choose import choose_scan
    from megaface_eval.search.ranks import Search

    probes = load_features(folder / "probes")
    unit = probes.unit(0, len(probes))
    scan, note = choose_scan(search, probes, load_features(folder / "gallery"), rows, Processes())
    watch = Watch()
    gallery = Gallery(load_features(folder / "gallery"), nested_sizes(rows))
    found = identify(Probes(unit, probes.labels), gallery, Rules(), Search(scan=scan))
    rank1, mean = float((found.ranks[-1] == 0).mean()), float(found.ranks[-1].mean())
    return {**watch.read(), "rank1": rank1, "mean_rank": mean, "search": note}


def measure_buckets(folder: Path, rows: int, search: str) -> dict:
    """Pseudo-shot counts of all probes over a training set, from disk."""
    from dataclasses import replace

    from megaface_eval.features.feature_set import ArrayRows, load_features
    from megaface_eval.processes import Processes
    from megaface_eval.protocols.pseudo_shot import count_similar
    from megaface_eval.search.choose import choose_scan
    from megaface_eval.search.ranks import Search

    class First(ArrayRows):
        """The first rows of a file."""

        def __init__(self, whole):
            self.whole, self.shape = whole, (rows, whole.shape[1])

        def read(self, start, stop):
            return self.whole.read(start, stop)

    gallery = load_features(folder / "gallery")
    train = replace(gallery, stored=First(gallery.stored), labels=gallery.labels[:rows])
    probes = load_features(folder / "probes")
    scan, _ = choose_scan(search, probes, train, rows, Processes())
    watch = Watch()
    count_similar(probes, train, 0.7, Search(scan=scan))
    return watch.read()


def measure_kernel(folder: Path, rows: int) -> dict:
    """CPU seconds of FAISS's search of a few rows and of numpy's product, the best of three, and the kernels' names."""
    from megaface_eval.features.feature_set import load_features
    from megaface_eval.search.faiss_scan import nearest

    probes = np.load(folder / "probes/features.npy")
    some = load_features(folder / "gallery").unit(0, min(rows, 8192))
    taken = {}
    for name, task in (("faiss", lambda: nearest(probes, some, 1)), ("numpy", lambda: probes @ some.T)):
        tries = []
        for _ in range(3):
            watch = Watch()
            task()
            tries.append(watch.read()["cpu"])
        taken[name] = min(tries)
    return {**taken, "names": kernel_names()}


def kernel_names() -> str:
    """Which BLAS of which architecture this process has loaded, where threadpoolctl is there to say so."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return "unknown without threadpoolctl"
    held = [one for one in threadpool_info() if one["user_api"] == "blas"]
    named = {f"{Path(one['filepath']).name.split('-')[0]} {one.get('architecture')}" for one in held}
    return ", ".join(sorted(named))


MEASURES = {
    "flat": measure_flat,
    "identify": measure_identify,
    "buckets": measure_buckets,
    "kernel": measure_kernel,
}


def apart(name: str, *arguments, kernel: dict | None = None) -> dict:
    """A measurement in a process of its own, under one of KERNELS."""
    command = [sys.executable, __file__, "--measure", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **(kernel or {})})
    return json.loads(done.stdout.splitlines()[-1])


def best_kernels(folder: Path, rows: int) -> dict[str, dict]:
    """Under which of KERNELS FAISS and numpy take the least; says so."""
    tried = []
    for kernel in tqdm(KERNELS, desc="kernels", disable=None):
        try:
            tried.append((kernel, apart("kernel", folder, rows, kernel=kernel)))
        except subprocess.CalledProcessError:
            continue
    best = {}
    for side in ("faiss", "numpy"):
        kernel, taken = min(tried, key=lambda one: one[1][side])
        slowest = max(one[side] for _, one in tried) / taken[side]
        told = " ".join(f"{name}={value}" for name, value in kernel.items()) or "as started"
        print(f"{side}: {told} ({taken['names']}); the slowest of {len(tried)} kernels takes {slowest:.2f} x its time")
        best[side] = kernel
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gallery", default="100K", help="number of distractors (100K); 1M takes minutes and 2 GB of disk"
    )
    parser.add_argument("--mate-cosine", type=float, default=0.45, help="mean cosine of mates (0.45)")
    parser.add_argument(
        "--decay",
        type=float,
        help="variances fall as exp(-i/DECAY), as features of faces do in some way; even by default",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--search", default="auto", help="megaface_eval's own --search (auto)")
    parser.add_argument("--every", action="store_true", help="also time every search, once each")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, folder, rows, *more = options.measure
        print(json.dumps(MEASURES[name](Path(folder), int(rows), *more)))
        return
    from megaface_eval.features.feature_set import normalise, write_features
    from megaface_eval.features.gallery import parse_size
    from megaface_eval.features.simulate import make_scene
    from megaface_eval.search.choose import SCANS

    rows = parse_size(options.gallery)
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        scene = make_scene(rows, options.mate_cosine)
        scale = lengths(scene.probes.dimension, options.decay)
        write_features(
            folder / "probes", normalise(scene.probes.unit(0, len(scene.probes)) * scale), scene.probes.labels
        )
        write_gallery(folder / "gallery", rows, scale)
        train = min(rows, TRAIN)
        best = best_kernels(folder, rows)
        flat, ours, buckets = [], [], []
        for _ in range(options.rounds):
            flat.append(apart("flat", folder, rows, kernel=best["faiss"]))
            ours.append(apart("identify", folder, rows, options.search, kernel=best["numpy"]))
            buckets.append(apart("buckets", folder, train, options.search, kernel=best["numpy"]))
        print(f"search: {ours[0]['search']}")
        for what in ("seconds", "cpu"):
            reference, identified, counted = (min(results, key=lambda r: r[what]) for results in (flat, ours, buckets))
            base = reference[what]
            print(f"by {'the wall' if what == 'seconds' else 'CPU time'}, best of {options.rounds}:")
            print(f"  IndexFlatIP k=1, {len(scene.probes)} x {rows}: {base:.2f} s, {reference['peak_gb']:.2f} GB")
            print(f"  identify, streamed: {identified[what] / base:.2f} x, {identified['peak_gb']:.2f} GB, "
                  f"rank-1 {100 * identified['rank1']:.2f} %, mean rank {identified['mean_rank']:.1f}")  # fmt: skip
            share = base * train / rows
            print(f"  buckets over {train}: {counted[what] / share:.2f} x, {counted['peak_gb']:.2f} GB")
        reached = min(one["cpu"] for one in ours) / min(one["cpu"] for one in flat)
        print(f"target {TARGET} x by CPU time: {'met' if reached <= TARGET else 'missed'} ({reached:.2f} x)")
        if options.every:
            base = min(one["cpu"] for one in flat)
            for search in SCANS:
                one = apart("identify", folder, rows, search, kernel=best["numpy"])
                print(f"{search}: {one['cpu'] / base:.2f} x by CPU time, rank-1 {100 * one['rank1']:.2f} %")


if __name__ == "__main__":
    main()
