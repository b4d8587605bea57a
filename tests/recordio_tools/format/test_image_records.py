"""Records by position: picked, pickled, and named in errors."""

import pickle

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.image_records import ImageRecords
from recordio_tools.format.recordio import RecordError


@pytest.fixture
def images(tmp_path) -> ImageRecords:
    """Seven images, the last of which is none."""
    records = sets.insightface(sets.LABELS)
    records[7] = (7, sets.payload(4, b"no picture", 7))
    return RecordDataset(sets.write(tmp_path, records, "5,8,8\n"))


@pytest.mark.parametrize("rows", [[1, 2, 3], [6, 0, 4], [], [5]])
def test_picked_records_are_those_asked_for(images, rows):
    picked = images.pick(np.array(rows, np.int64))
    assert len(picked) == len(rows)
    assert picked.keys.tolist() == images.keys[rows].tolist()
    assert [picked.jpeg(i).tobytes() for i in range(len(rows))] == [images.jpeg(row).tobytes() for row in rows]
    assert picked.headers.label.tolist() == images.headers.label[rows].tolist()


def test_neighbours_are_not_copied(images):
    assert np.shares_memory(images.pick(np.arange(2, 5)).keys, images.keys)


def test_pickles_hold_no_image(images):
    content = pickle.dumps(images.pick(np.arange(7)))
    assert images.jpeg(0).tobytes() not in content
    assert pickle.loads(content).jpeg(3).tobytes() == images.jpeg(3).tobytes()


def test_what_is_no_picture_is_named(images):
    assert images.measure(0) == (8, 8)
    with pytest.raises(RecordError, match=r"train.rec: record key 7 at byte \d+: not an image that can be decoded"):
        images.measure(6)
