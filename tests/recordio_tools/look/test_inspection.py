"""Figures of sets whose every figure is known."""

import json

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.look.inspection import describe_figures, inspect, shots


def test_figures_of_a_stock_set(tmp_path):
    labels = [0] * 7 + [1] * 2 + [3]
    folder = sets.write(tmp_path, sets.insightface(labels, place="middle"), "5,8,8")
    figures = inspect(RecordDataset(folder))
    assert json.loads(json.dumps(figures)) == figures
    assert figures["records"] == {"image": 10, "identity": 4, "header": 1}
    assert figures["record_count"] == 15
    assert figures["bytes"] == (folder / "train.rec").stat().st_size
    assert figures["header"] == {"labels": [11.0, 15.0], "place": "middle"}
    assert figures["keys"] == {"first": 1, "last": 10, "gaps": 0}
    assert figures["labels"] == {"scalar": 10}
    assert figures["file_order"] == "keys"
    assert figures["identities"] == {
        **{"classes": 5, "with_images": 3, "named": False, "images_longest": 7, "images_median": 2.0},
        **{"images_shortest": 1, "many_shot": 0, "medium_shot": 0, "few_shot": 3},
    }
    assert figures["image_size"] == {"stated": [8, 8], "sampled": {"8x8": 10}}
    assert figures["image_bytes_mean"] == round(np.mean([len(sets.jpeg(key * 7)) for key in range(1, 11)]), 1)


@pytest.mark.parametrize("place", ["first", "last", "none"])
def test_where_the_header_lies(tmp_path, place):
    figures = inspect(RecordDataset(sets.write(tmp_path, sets.insightface([0, 1, 1], place=place))))
    assert figures["header"] == (None if place == "none" else {"labels": [4.0, 6.0], "place": place})


def test_oddities(tmp_path):
    records = [
        (5, sets.payload([0.0, 1.0], sets.jpeg(1))),
        (2, sets.payload([1.0, 1.0], sets.jpeg(2) + sets.MAGIC * 2)),
        (3, sets.payload(1, b"no picture")),
    ]
    figures = inspect(RecordDataset(sets.write(tmp_path, records, "2,8,8")))
    assert figures["labels"] == {"scalar": 1, "vector of 2": 2}
    assert figures["keys"] == {"first": 2, "last": 5, "gaps": 1}
    assert figures["file_order"] == "shuffled"
    assert figures["image_size"]["sampled"] == {"8x8": 2, "undecodable": 1}
    text = describe_figures(figures)
    assert "scalar (1), vector of 2 (2)" in text
    assert "2..5, 1 missing; file order: shuffled" in text
    assert all(line[:14].strip() and line[15:].strip() for line in text.splitlines())


def test_shots_at_their_bounds():
    assert shots(np.array([100, 99, 21, 20, 1])) == {"many_shot": 1, "medium_shot": 2, "few_shot": 2}
