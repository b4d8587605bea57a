"""Sets as they are written: layout by hand, mistakes refused, nothing half-written."""

import os
import signal
import struct
import time

import numpy as np
import pytest
import sets

from recordio_tools.check.verify import verify
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.format.recordio import RecordError, RecordWriter
from recordio_tools.writer import range_records


def write_set(folder, labels, **options):
    """A set of images `image 0`, `image 1` … with these labels."""
    with DatasetWriter(folder, options.pop("num_classes", 4), (8, 8), **options) as writer:
        for number, label in enumerate(labels):
            writer.add(b"image %d" % number, label)


def test_grouped_images_keep_their_order(tmp_path):
    labels = [0, 0, 1, 3, 3, 3]
    write_set(tmp_path / "set", labels, names=list("abcd"))
    records = [(key, sets.payload(label, b"image %d" % (key - 1), key)) for key, label in enumerate(labels, 1)]
    ranges = [(1, 3), (3, 4), (4, 4), (4, 7)]
    records.insert(0, (0, sets.payload([7.0, 11.0], b"")))
    records += [(7 + k, sets.payload([float(a), float(b)], b"", 7 + k)) for k, (a, b) in enumerate(ranges)]
    sets.write(tmp_path / "plain", records)
    for name in ("train.rec", "train.idx"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert (tmp_path / "set" / "property").read_text() == "4,8,8\n"
    assert (tmp_path / "set" / "names.txt").read_text() == "a\nb\nc\nd\n"


def test_mixed_images_get_keys_by_identity(tmp_path):
    write_set(tmp_path / "set", [2, 0, 2, 1, 0])
    ds = RecordDataset(tmp_path / "set")
    assert ds.labels.tolist() == [0, 0, 1, 2, 2]
    assert [ds.jpeg(i).tobytes() for i in range(5)] == [b"image 1", b"image 4", b"image 3", b"image 0", b"image 2"]
    assert np.argsort(ds.offsets).tolist() == [3, 0, 4, 2, 1]
    assert [header.id for header, _ in map(ds.record, range(5))] == [2, 5, 4, 1, 3]


def test_further_labels_are_kept(tmp_path):
    write_set(tmp_path / "set", [[1, 0.5], np.array([2.0, 9.0]), 3])
    ds = RecordDataset(tmp_path / "set")
    assert ds.labels.tolist() == [1, 2, 3]
    assert [ds.record(i)[0].label for i in range(3)][2] == 3.0
    assert [ds.record(i)[0].label.tolist() for i in range(2)] == [[1, 0.5], [2, 9]]


def test_classes_from_the_labels(tmp_path):
    write_set(tmp_path / "set", [0, 6], num_classes=None)
    assert (tmp_path / "set" / "property").read_text() == "7,8,8\n"


def test_range_records_by_hand():
    expected = sets.frame(sets.payload([1.0, 3.0], b"", 9)) + sets.frame(sets.payload([3.0, 3.0], b"", 10))
    assert range_records(np.array([9, 10]), np.array([1, 3]), np.array([3, 3])) == expected


@pytest.mark.parametrize(
    "labels, options, words",
    [
        ([0, 4], {}, "label 4 given, expected one of the 4 classes 0..3"),
        ([-1], {}, "label -1 given"),
        ([-1], {"num_classes": None}, "label -1 given, expected 0 or above"),
        ([0.5], {}, "label 0.5 is not an integer"),
        ([], {}, "no image was given"),
        ([0], {"names": ["a"]}, "1 names for 4 identities"),
        ([0], {"names": ["a", "b", "c\nd", "e"]}, "has more than one line"),
    ],
)
def test_mistakes_are_refused_and_leave_nothing(tmp_path, labels, options, words):
    with pytest.raises(RecordError, match=words):
        write_set(tmp_path / "set", labels, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, records):
        if self.offset > 400:
            raise OSError(28, "No space left on device")
        return whole(self, records)

    whole = RecordWriter.write_framed
    monkeypatch.setattr(RecordWriter, "write_framed", fail)
    with pytest.raises(UserError, match="No space left"):
        write_set(tmp_path / "set", [0] * 50)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_image_is_refused(tmp_path):
    with (
        pytest.raises(RecordError, match="image 0 \\(label 1\\) is empty"),
        DatasetWriter(tmp_path / "s", 2, (8, 8)) as writer,
    ):
        writer.add(b"", 1)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_set_stays_unless_forced(tmp_path):
    write_set(tmp_path / "set", [0])
    with pytest.raises(UserError, match="exists already; choose another name or give --force"):
        write_set(tmp_path / "set", [1])
    assert RecordDataset(tmp_path / "set").labels.tolist() == [0]
    with pytest.raises(RecordError, match="label 9"):
        write_set(tmp_path / "set", [2, 9], force=True)
    assert RecordDataset(tmp_path / "set").labels.tolist() == [0]
    write_set(tmp_path / "set", [1], force=True)
    assert RecordDataset(tmp_path / "set").labels.tolist() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_label_bits_are_float32(tmp_path):
    write_set(tmp_path / "set", [3])
    assert struct.unpack_from("<f", (tmp_path / "set" / "train.rec").read_bytes(), 40 + 12) == (3.0,)


def _write_for_ever(folder, generation: int) -> None:
    """Replace the set again and again; the images of a generation are alike, and no other's."""
    while True:
        generation += 1
        with DatasetWriter(folder, 30, (8, 8), force=True) as writer:
            for number in range(200 + generation % 7):
                writer.add(b"generation %08d" % generation * 20, number % 30)


def test_a_writer_killed_at_any_moment_leaves_the_old_set_or_the_new_one(tmp_path):
    rng = np.random.default_rng(0)
    write_set(tmp_path / "set", [0])
    seen, generation, kills, longest = set(), 0, 0, 0.02
    while kills < 60 or len(seen) <= 5:
        kills += 1
        child = os.fork()
        if child == 0:
            try:
                _write_for_ever(tmp_path / "set", generation)
            finally:
                os._exit(1)
        time.sleep(float(rng.uniform(0, longest)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ds = RecordDataset(tmp_path / "set")
        contents = {ds.jpeg(i).tobytes() for i in range(len(ds))}
        assert len(contents) == 1
        assert verify(tmp_path / "set").faults == []
        content = contents.pop()
        if content.startswith(b"generation"):
            generation = int(content[11:19])
            assert len(ds) == 200 + generation % 7
        longest *= 0.9 if generation not in seen else 1.2  # as many kills before the exchange as after it
        seen.add(generation)
    write_set(tmp_path / "set", [1], force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_paths_are_written_in_the_order_of_the_keys(tmp_path):
    with DatasetWriter(tmp_path / "set", 2, (8, 8), paths=["z/1", "a/2", "z/3"]) as writer:
        for label in (1, 0, 1):
            writer.add(sets.jpeg(label), label)
    assert RecordDataset(tmp_path / "set").paths == ["a/2", "z/1", "z/3"]


def test_paths_are_as_many_as_the_images(tmp_path):
    with pytest.raises(RecordError, match="1 paths for 2 images; give one for each"):
        write_set(tmp_path / "set", [0, 0], paths=["a"])
    assert not (tmp_path / "set").exists()
