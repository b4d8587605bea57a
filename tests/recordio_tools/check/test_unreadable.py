"""Lists of what a trainer could not decode: read whole, matched by key and bytes, left out by a repair."""

import json

import numpy as np
import pytest
import sets

from recordio_tools.check.repair import repair
from recordio_tools.check.unreadable import of_image, read_unreadable, rows_of
from recordio_tools.check.verify import verify
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError

LABELS = [0, 0, 0, 1, 1, 3, 3]


@pytest.fixture
def folder(tmp_path):
    return sets.write(tmp_path / "set", sets.insightface(LABELS), "4,8,8\n", list("abcd"))


def listed(folder, path, *rows: int) -> None:
    dataset = RecordDataset(folder)
    path.write_text("".join(of_image(dataset, row, dataset.labels[row], "DALI: no").line() for row in rows))


def test_what_training_could_not_decode_is_left_out_by_a_repair(folder, tmp_path):
    listed(folder, tmp_path / "quarantine.jsonl", 4, 1)
    survey = verify(folder, decode=True, unreadable=tmp_path / "quarantine.jsonl")
    assert [(fault.kind, fault.key, fault.problem) for fault in survey.faults] == [
        ("image", key, "did not decode in training (DALI: no)") for key in (2, 5)
    ]
    assert repair(survey, tmp_path / "out") == 5
    mended, before = RecordDataset(tmp_path / "out"), RecordDataset(folder)
    kept = [0, 2, 3, 5, 6]
    assert mended.labels.tolist() == [LABELS[row] for row in kept]
    for row, old in enumerate(kept):
        np.testing.assert_array_equal(mended.jpeg(row), before.jpeg(old))
    assert len(json.loads((tmp_path / "out" / "quarantine.json").read_text())["left_out"]) == 2


def test_a_line_of_another_image_or_key_names_none(folder, tmp_path):
    path = tmp_path / "quarantine.jsonl"
    listed(folder, path, 4, 1)
    one, other = read_unreadable(path)
    dataset = RecordDataset(folder)
    assert rows_of([one, other], dataset) == {4: one, 1: other}
    assert rows_of([one._replace(key=99), other._replace(crc32=1)], dataset) == {}
    path.write_text(one._replace(key=99).line())
    with pytest.raises(RecordError, match="is of another one"):
        verify(folder, unreadable=path)


def test_a_torn_last_line_is_left_out_and_another_file_is_refused(folder, tmp_path):
    path = tmp_path / "quarantine.jsonl"
    listed(folder, path, 4, 1)
    path.write_bytes(path.read_bytes()[:-9])
    assert [one.key for one in read_unreadable(path)] == [5]
    path.write_text('{"stage": "plain"}\n' + path.read_text())
    with pytest.raises(RecordError, match="line 1 is none"):
        read_unreadable(path)
    with pytest.raises(RecordError, match="no such file"):
        verify(folder, unreadable=tmp_path / "elsewhere.jsonl")
