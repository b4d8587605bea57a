"""20,400 seeded mutations of a set: always the typed error, never a lost record that the mutation did not touch."""

import resource
import struct
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import sets

from recordio_tools.check.repair import repair
from recordio_tools.check.verify import verify
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError

CASES = 1700  # of each of the twelve kinds
SURVEYED = 2  # every so many are also verified
WRITTEN = 40  # every so many are repaired to disk too and read back
HEADROOM = 192 << 20  # bytes that a case may allocate: a length of 2^29-1 taken at its word would need 512 MiB
PLACED = {"magic", "truncated", "part", "header", "label"}


class Case(NamedTuple):
    rec: bytes
    idx: bytes
    touched: set[int]


class Base:
    """The set that is mutated: scalar and vector labels, whole and cut records, every length modulo 4."""

    def __init__(self):
        rng = np.random.default_rng(0)
        images = [
            rng.bytes(int(rng.integers(5, 60))) + sets.MAGIC * (key % 4 == 1) + b"x" * (key % 3) for key in range(1, 13)
        ]
        labels = sorted([0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3])
        payloads = [sets.payload([13.0, 17.0], b"")]
        payloads += [
            sets.payload([float(label), 1.0] if key % 5 == 0 else label, image, key)
            for key, (label, image) in enumerate(zip(labels, images, strict=True), 1)
        ]
        edges = [1, 3, 6, 11, 13]
        payloads += [sets.payload([float(a), float(b)], b"", 13 + k) for k, (a, b) in enumerate(pairwise(edges))]
        self.frames = [sets.frame(payload) for payload in payloads]
        self.starts = np.cumsum([0, *map(len, self.frames)]).tolist()
        self.rec = b"".join(self.frames)
        self.idx = "".join(f"{key}\t{start}\n" for key, start in enumerate(self.starts[:-1])).encode()
        self.images = {key: (float(labels[key - 1]), images[key - 1]) for key in range(1, 13)}

    def hit(self, start: int, end: int) -> set[int]:
        """Records that the bytes [start, end) belong to."""
        return {key for key in range(len(self.frames)) if start < self.starts[key + 1] and end > self.starts[key]}

    def replace(self, start: int, end: int, content: bytes) -> Case:
        return Case(self.rec[:start] + content + self.rec[end:], self.idx, self.hit(start, max(end, start + 1)))


BASE = Base()


def bit_flip(rng) -> Case:
    at = int(rng.integers(len(BASE.rec)))
    return BASE.replace(at, at + 1, bytes([BASE.rec[at] ^ 1 << int(rng.integers(8))]))


def random_bytes(rng) -> Case:
    at, size = int(rng.integers(len(BASE.rec))), int(rng.integers(1, 40))
    return BASE.replace(at, min(at + size, len(BASE.rec)), rng.bytes(min(size, len(BASE.rec) - at)))


def truncation(rng) -> Case:
    at = int(rng.integers(1, len(BASE.rec)))
    return BASE.replace(at, len(BASE.rec), b"")


def lost_bytes(rng) -> Case:
    at, size = int(rng.integers(len(BASE.rec) - 50)), int(rng.integers(1, 50))
    return BASE.replace(at, at + size, b"")


def bytes_put_in(rng) -> Case:
    at = int(rng.integers(len(BASE.rec)))
    return BASE.replace(at, at, rng.bytes(int(rng.integers(1, 50))))


def magic_word(rng) -> Case:
    at = int(rng.integers(len(BASE.rec) - 8))
    word = sets.MAGIC + struct.pack("<I", int(rng.integers(8)) << 29 | int(rng.integers(100))) * int(rng.integers(2))
    return BASE.replace(at, at + (len(word) if rng.integers(2) else 0), word)


def hostile_length(rng) -> Case:
    at = BASE.starts[int(rng.integers(len(BASE.frames)))] + 4
    length = int(rng.choice([2**29 - 1, 2**29 - 8, 0, len(BASE.rec), int(rng.integers(len(BASE.rec)))]))
    return BASE.replace(at, at + 4, struct.pack("<I", int(rng.integers(8)) << 29 | length))


def jump_to_a_head(rng) -> Case:
    """A length that swallows whole records and ends where another begins."""
    key = int(rng.integers(len(BASE.frames) - 1))
    target = BASE.starts[int(rng.integers(key + 1, len(BASE.starts)))]
    return BASE.replace(BASE.starts[key] + 4, BASE.starts[key] + 8, struct.pack("<I", target - BASE.starts[key] - 8))


def recursive_parts(rng) -> Case:
    at = BASE.starts[int(rng.integers(len(BASE.frames)))]
    parts = b"".join(
        sets.MAGIC + struct.pack("<I", int(flag) << 29 | int(rng.integers(5)) * 4)
        for flag in rng.integers(0, 4, rng.integers(1, 60))
    )
    return Case(BASE.rec[:at] + parts + BASE.rec[at:], BASE.idx, set())


def hostile_label(rng) -> Case:
    key = int(rng.integers(1, 13))
    at = BASE.starts[key] + (32 if key % 5 == 0 else 12)
    label = float(rng.choice([float("nan"), float("inf"), -1.0, 1e30, -1e30, 0.5, 4.0, 2.0**24]))
    return BASE.replace(at, at + 4, struct.pack("<f", label))


def hostile_index(rng) -> Case:
    lines = BASE.idx.splitlines(keepends=True)
    row = int(rng.integers(len(lines)))
    offset = int(rng.choice([-1, -8, 2**62, len(BASE.rec), len(BASE.rec) + 4, int(rng.integers(len(BASE.rec)))]))
    lines[row] = b"%d\t%d\n" % (int(rng.choice([row, 0, -3, 10**17, 5])), offset)
    return Case(BASE.rec, b"".join(lines), set())


def broken_index(rng) -> Case:
    idx = bytearray(BASE.idx)
    for at in rng.integers(0, len(idx), int(rng.integers(1, 4))):
        idx[at] = int(rng.choice([0xFF, 0xC3, 0, 45, 46, 101, 32, 9, 10, 13, int(rng.integers(256))]))
    return Case(BASE.rec, bytes(idx[: int(rng.integers(len(idx) + 1))] if rng.integers(3) == 0 else idx), set())


MUTATIONS = [
    *[bit_flip, random_bytes, truncation, lost_bytes, bytes_put_in, magic_word, hostile_length, jump_to_a_head],
    *[recursive_parts, hostile_label, hostile_index, broken_index],
]


@contextmanager
def limited_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def open_and_read(folder: Path) -> None:
    """Either everything can be read, or the error is the typed one and says where."""
    caught = None
    try:
        ds = RecordDataset(folder)
        for i in range(len(ds)):
            ds.jpeg(i)
    except RecordError as error:
        caught = error
    if caught is not None:
        assert "\n" not in str(caught)
        assert caught.kind not in PLACED or None not in (caught.key, caught.offset)


def kept(images, labels) -> list[tuple[float, bytes]]:
    return [(float(label), images.jpeg(row).tobytes()) for row, label in enumerate(labels)]


@pytest.fixture
def fast_path(tmp_path):
    """A folder in memory where there is one: two files a case."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_mutations(fast_path, mutate):
    folder = fast_path / "set"
    folder.mkdir()
    (folder / "property").write_text("4,8,8\n")
    rng = np.random.default_rng([MUTATIONS.index(mutate), 7])
    with limited_memory():
        for number in range(CASES):
            case = mutate(rng)
            (folder / "train.rec").write_bytes(case.rec)
            (folder / "train.idx").write_bytes(case.idx)
            open_and_read(folder)
            untouched = [BASE.images[key] for key in BASE.images if key not in case.touched]
            if number % SURVEYED or not untouched:
                continue
            survey = verify(folder)
            found = kept(survey.images, survey.images.headers.label)
            lost = [image for image in untouched if image not in found]
            assert not lost, (number, lost)
            if number % WRITTEN == 0:
                repair(survey, fast_path / "out", force=True)
                ds = RecordDataset(fast_path / "out")
                assert sorted(kept(ds, ds.labels)) == sorted(found)
                assert verify(fast_path / "out").faults == []


def test_an_untouched_set_has_no_fault(tmp_path):
    (tmp_path / "train.rec").write_bytes(BASE.rec)
    (tmp_path / "train.idx").write_bytes(BASE.idx)
    assert verify(tmp_path).faults == []
    assert len(MUTATIONS) * CASES >= 20_000
