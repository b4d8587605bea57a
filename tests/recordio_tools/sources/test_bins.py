"""Verification packs of every age are read; pickles that do anything else are refused."""

import os
import pickle
import struct

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.sources.bins import Pack, pack_to_set, read_pack, set_to_pack, write_pack

IMAGES = [sets.jpeg(value) for value in (10, 20, 30, 40)]
SAME = [True, False]


def dumped(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "images",
    [IMAGES, [np.frombuffer(image, np.uint8) for image in IMAGES], tuple(IMAGES), [np.frombuffer(b"", np.uint8)] * 4],
    ids=["bytes", "arrays", "tuple", "empty"],
)
@pytest.mark.parametrize(
    "same", [SAME, np.array(SAME), [np.bool_(True), np.bool_(False)], [1, 0]], ids=["bools", "array", "scalars", "ints"]
)
def test_packs_of_all_makes(tmp_path, protocol, images, same):
    pack = read_pack(dumped(tmp_path / "x.bin", (images, same), protocol))
    assert pack.images == [bytes(image) for image in images]
    assert pack.same.tolist() == SAME


def test_a_pack_of_python_2(tmp_path):
    """Protocol 2 with str for bytes, as cPickle wrote it."""
    strings = b"".join(b"T" + struct.pack("<I", len(image)) + image for image in IMAGES[:2])
    (tmp_path / "x.bin").write_bytes(b"\x80\x02](" + strings + b"e]\x88a\x86.")
    pack = read_pack(tmp_path / "x.bin")
    assert (pack.images, pack.same.tolist()) == (IMAGES[:2], [True])


class Mischief:
    """Its pickle touches a file when it is loaded."""

    def __init__(self, how, *what):
        self.how, self.what = how, what

    def __reduce__(self):
        return self.how, self.what


@pytest.mark.parametrize("place", ["alone", "image", "same"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_never_runs(tmp_path, place, protocol):
    mark = tmp_path / "ran"
    bad = Mischief(os.mkdir, str(mark))
    value = {"alone": bad, "image": ([bad, *IMAGES[1:]], SAME), "same": (IMAGES, [bad, False])}[place]
    path = dumped(tmp_path / "x.bin", value, protocol)
    with pytest.raises(RecordError, match="which no pack of images needs"):
        read_pack(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the pickle does what it is feared to do


@pytest.mark.parametrize(
    "value, words",
    [
        (([np.zeros(3, np.float32)] * 2, [True]), "an array of type"),
        (([np.array([{}], object)] * 2, [True]), "an array of type"),
        ((IMAGES, [1.5, 2.5]), "not lists of images and bools"),
        ((IMAGES, [np.float64(1), True]), "type"),
        (("images", SAME), "not lists"),
        (([b"a", "text"], [True]), "not lists"),
        ({"bins": IMAGES}, "not a verification pack"),
        ((IMAGES, SAME, 3), "not a verification pack"),
        ((IMAGES[:3], SAME), "3 images for 2 pairs, expected two for each"),
        (7, "not a verification pack"),
    ],
)
def test_other_contents_are_refused(tmp_path, value, words):
    with pytest.raises(RecordError, match=words):
        read_pack(dumped(tmp_path / "x.bin", value))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps((IMAGES, SAME))[:-30],
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62),
        b"\x80\x02N" + b"r" + struct.pack("<I", 2**31) + b".",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"]q\x00h\x00a.",
    ],
    ids=["empty", "text", "cut", "length", "memo", "marks", "recursive"],
)
def test_broken_pickles_are_refused(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(RecordError, match="not a verification pack"):
        read_pack(tmp_path / "x.bin")


def test_missing(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        read_pack(tmp_path / "x.bin")


def test_written_packs_load_as_usual(tmp_path):
    write_pack(tmp_path / "x.bin", Pack(IMAGES, np.array(SAME)))
    with open(tmp_path / "x.bin", "rb") as file:
        assert pickle.load(file, encoding="bytes") == (IMAGES, SAME)
    with pytest.raises(RecordError, match="expected two for each"):
        write_pack(tmp_path / "y.bin", Pack(IMAGES[:1], np.array(SAME)))


def test_into_a_set_and_back(tmp_path):
    write_pack(tmp_path / "x.bin", Pack(IMAGES, np.array(SAME)))
    assert pack_to_set(tmp_path / "x.bin", tmp_path / "set") == 2
    ds = RecordDataset(tmp_path / "set")
    assert [ds.jpeg(i).tobytes() for i in range(4)] == IMAGES
    assert (ds.labels.tolist(), ds.image_size) == ([0, 0, 1, 1], (8, 8))
    assert (tmp_path / "set" / "pairs.tsv").read_text() == "0\t1\t1\n2\t3\t0\n"
    assert set_to_pack(ds, tmp_path / "back.bin") == 2
    assert (tmp_path / "back.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()


@pytest.mark.parametrize("line", ["0\t1", "0\t4\t1", "0\t1\t2", "a\t1\t1", "-1\t1\t1"])
def test_pairs_that_do_not_fit(tmp_path, line):
    write_pack(tmp_path / "x.bin", Pack(IMAGES, np.array(SAME)))
    pack_to_set(tmp_path / "x.bin", tmp_path / "set")
    (tmp_path / "set" / "pairs.tsv").write_text(f"0\t1\t1\n{line}\n")
    with pytest.raises(RecordError, match="line 2 is"):
        set_to_pack(RecordDataset(tmp_path / "set"), tmp_path / "back.bin")
    (tmp_path / "set" / "pairs.tsv").unlink()
    with pytest.raises(RecordError, match="no such file"):
        set_to_pack(RecordDataset(tmp_path / "set"), tmp_path / "back.bin")


def test_a_pack_without_pictures(tmp_path):
    write_pack(tmp_path / "none.bin", Pack([], np.zeros(0, bool)))
    with pytest.raises(RecordError, match="holds no pairs"):
        pack_to_set(tmp_path / "none.bin", tmp_path / "set")
    write_pack(tmp_path / "text.bin", Pack([b"no", b"jpeg"], np.array([True])))
    with pytest.raises(RecordError, match="its first image does not decode"):
        pack_to_set(tmp_path / "text.bin", tmp_path / "set")
