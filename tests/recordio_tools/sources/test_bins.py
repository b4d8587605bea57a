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


def pickled(path, value, protocol=4):
    """A file with the pickle of a value."""
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


AS_ARRAYS = [np.frombuffer(image, np.uint8) for image in IMAGES]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "images",
    [
        pytest.param(IMAGES, id="bytes"),
        pytest.param(AS_ARRAYS, id="arrays"),
        pytest.param([array.astype(np.int64) for array in AS_ARRAYS], id="wide"),
        pytest.param([array.astype(">i4")[None] for array in AS_ARRAYS], id="big-endian"),
        pytest.param(tuple(IMAGES), id="tuple"),
        pytest.param(np.array(IMAGES, object), id="object"),
        pytest.param(np.array(IMAGES), id="strings"),
        pytest.param([np.frombuffer(b"", np.uint8)] * 4, id="empty"),
    ],
)
@pytest.mark.parametrize(
    "same",
    [
        pytest.param(SAME, id="bools"),
        pytest.param(tuple(SAME), id="tuple"),
        pytest.param(np.array(SAME), id="array"),
        pytest.param(np.array(SAME, ">i8"), id="big-endian"),
        pytest.param(np.array(SAME, np.float32)[:, None], id="column"),
        pytest.param([np.bool_(True), np.bool_(False)], id="scalars"),
        pytest.param([np.int64(1), np.float64(0)], id="numbers"),
        pytest.param([np.array([True]), np.array(False)], id="arrays"),
        pytest.param([1, 0.0], id="ints"),
    ],
)
def test_packs_of_all_makes(tmp_path, protocol, images, same):
    pack = read_pack(pickled(tmp_path / "x.bin", (images, same), protocol))
    assert pack.images == [bytes(np.asarray(i, np.uint8)) if isinstance(i, np.ndarray) else bytes(i) for i in images]
    assert pack.same.tolist() == SAME


def test_an_image_as_a_bytearray(tmp_path):
    pack = read_pack(pickled(tmp_path / "x.bin", ([bytearray(image) for image in IMAGES], SAME), protocol=5))
    assert pack.images == IMAGES


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
    path = pickled(tmp_path / "x.bin", value, protocol)
    with pytest.raises(RecordError, match="which no pack of images needs"):
        read_pack(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the pickle does what it is feared to do


@pytest.mark.parametrize(
    "value, words",
    [
        (([np.zeros(3, np.float32)] * 2, [True]), "not a list of images"),
        (([np.zeros(3, np.complex64)] * 2, [True]), "an array of type 'c8'"),
        (([np.array([{}], object)] * 2, [True]), "not a list of images"),
        ((IMAGES, [1.5, 2.5]), "not a list of bools, it holds 1.5"),
        ((IMAGES, [-1, 1]), "not a list of bools, it holds -1"),
        ((IMAGES, np.array([-1, 1])), "not a list of bools, it holds -1"),
        ((IMAGES, [float("nan"), 1]), "not a list of bools, it holds nan"),
        ((IMAGES, ["yes", "no"]), "not a list of bools, it holds a str"),
        (("images", SAME), "not lists"),
        (([b"a", "text"], [True]), "not a list of images"),
        (([], []), "holds no pairs"),
        ({"bins": IMAGES}, "not a verification pack"),
        ((IMAGES, SAME, 3), "not a verification pack"),
        ((IMAGES[:3], SAME), "3 images for 2 pairs, expected two for each"),
        (7, "not a verification pack"),
    ],
)
def test_other_contents_are_refused(tmp_path, value, words):
    with pytest.raises(RecordError, match=words):
        read_pack(pickled(tmp_path / "x.bin", value))


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
        b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b".",
    ],
    ids=["empty", "text", "cut", "length", "memo", "marks", "recursive", "frame"],
)
def test_broken_pickles_are_refused(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(RecordError, match="not a verification pack"):
        read_pack(tmp_path / "x.bin")


def test_missing(tmp_path):
    with pytest.raises(RecordError, match="no such file; expected a pack"):
        read_pack(tmp_path / "x.bin")
    with pytest.raises(RecordError, match=r"cannot be read \(Is a directory\); expected a pack"):
        read_pack(tmp_path)


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
