"""Identification against bare FAISS, in one run on one machine: python tests/bench/identify.py [--gallery 1M].

Each figure is a ratio to faiss.IndexFlatIP with everything in memory, k = 1. The product's run streams its gallery from
disk and ranks every ordered pair of probes, exactly, to the end of the gallery. Each measurement is a process of its
own, so that peak memory means something; the two are taken in turn, `--rounds` times, and the best of each is used.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TRAIN = 887_500  # the training images of MS1M-LT
BYTES = 4


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
    scan, note = choose_scan(search, probes.dimension, len(probes) * rows, Processes())
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
    scan, _ = choose_scan(search, probes.dimension, len(probes) * rows, Processes())
    watch = Watch()
    count_similar(probes, train, 0.7, Search(scan=scan))
    return watch.read()


MEASURES = {"flat": measure_flat, "identify": measure_identify, "buckets": measure_buckets}


def apart(name: str, *arguments) -> dict:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


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
    parser.add_argument("--certified", action="store_true", help="also time the certified searches")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, folder, rows, *more = options.measure
        print(json.dumps(MEASURES[name](Path(folder), int(rows), *more)))
        return
    from megaface_eval.features.feature_set import normalise, write_features
    from megaface_eval.features.gallery import parse_size
    from megaface_eval.features.simulate import make_scene

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
        flat, ours, buckets = [], [], []
        for _ in range(options.rounds):
            flat.append(apart("flat", folder, rows))
            ours.append(apart("identify", folder, rows, options.search))
            buckets.append(apart("buckets", folder, train, options.search))
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
        if options.certified:
            for search in ("certified-bfloat16", "certified-int8"):
                one = apart("identify", folder, rows, search)
                print(f"{search}: {one['cpu'] / base:.2f} x by CPU time, rank-1 {100 * one['rank1']:.2f} %")


if __name__ == "__main__":
    main()
