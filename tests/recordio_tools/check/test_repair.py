"""Repaired sets hold every whole image, and the quarantine every byte that was left out."""

import json
import struct

import numpy as np
import pytest
import sets

from recordio_tools.check.repair import repair
from recordio_tools.check.verify import verify
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError

LABELS = [0, 0, 0, 1, 1, 3, 3]


def labelled_images(folder) -> list[tuple[int, bytes]]:
    ds = RecordDataset(folder)
    return [(label, ds.jpeg(i).tobytes()) for i, label in enumerate(ds.labels.tolist())]


EXPECTED = [(label, sets.jpeg(key * 7)) for key, label in enumerate(LABELS, 1)]


def test_a_clean_set_is_repaired_to_itself(tmp_path):
    folder = sets.write(tmp_path / "set", sets.insightface(LABELS), "4,8,8\n", list("abcd"))
    assert repair(verify(folder), tmp_path / "out") == 7
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "names.txt",
        "property",
        "train.idx",
        "train.rec",
    ]
    for name in ("train.rec", "train.idx", "property", "names.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_damage_goes_to_quarantine(tmp_path):
    folder = sets.write(tmp_path / "set", sets.insightface(LABELS), "4,8,8\n")
    rec = bytearray((folder / "train.rec").read_bytes())
    at = [int(line.split("\t")[1]) for line in (folder / "train.idx").read_text().splitlines()]
    rec[at[2] + 4 : at[2] + 8] = struct.pack("<I", 2**29 - 1)
    rec[at[5] + 12 : at[5] + 16] = struct.pack("<f", float("nan"))
    (folder / "train.rec").write_bytes(rec + b"tail")
    repair(verify(folder), tmp_path / "out")
    assert labelled_images(tmp_path / "out") == [EXPECTED[row] for row in (0, 2, 3, 5, 6)]
    assert verify(tmp_path / "out", decode=True).faults == []
    quarantine = (tmp_path / "out" / "quarantine.bin").read_bytes()
    listed = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    assert [(piece["offset"], piece["why"]) for piece in listed["left_out"]] == [
        (at[2], "length"),
        (at[5], "record"),
        (len(rec), "truncated"),
    ]
    for piece in listed["left_out"]:
        original = bytes(rec + b"tail")[piece["offset"] :][: piece["bytes"]]
        assert quarantine[piece["at"] :][: piece["bytes"]] == original
    assert sum(piece["bytes"] for piece in listed["left_out"]) == len(quarantine)
    assert ("label", 5, at[5]) in [(fault["kind"], fault["key"], fault["offset"]) for fault in listed["faults"]]


@pytest.mark.parametrize("lost", [1, 2, 3, 5])
def test_records_that_lost_bytes_have_shifted_are_aligned_again(tmp_path, lost):
    folder = sets.write(tmp_path / "set", sets.insightface(LABELS), "4,8,8\n")
    rec = (folder / "train.rec").read_bytes()
    at = [int(line.split("\t")[1]) for line in (folder / "train.idx").read_text().splitlines()]
    (folder / "train.rec").write_bytes(rec[: at[3] + 50] + rec[at[3] + 50 + lost :])
    repair(verify(folder), tmp_path / "out")
    assert sorted(labelled_images(tmp_path / "out")) == sorted(EXPECTED[:2] + EXPECTED[3:])


def test_without_index_property_and_header(tmp_path):
    records = sets.insightface([2, 0, 1], place="none")
    folder = sets.write(tmp_path / "set", [*records, (9, sets.payload([1.0, 0.0], sets.jpeg(99) + sets.MAGIC * 3))])
    (folder / "train.idx").unlink()
    repair(verify(folder), tmp_path / "out")
    assert labelled_images(tmp_path / "out") == [
        (0, sets.jpeg(14)),
        (1, sets.jpeg(21)),
        (1, sets.jpeg(99) + sets.MAGIC * 3),
        (2, sets.jpeg(7)),
    ]
    assert (tmp_path / "out" / "property").read_text() == "3,8,8\n"
    assert RecordDataset(tmp_path / "out").record(2)[0].label.tolist() == [1.0, 0.0]


def test_undecodable_images_are_left_out_on_request(tmp_path):
    folder = sets.write(
        tmp_path / "set", [(1, sets.payload(0, b"no jpeg")), (2, sets.payload(1, sets.jpeg(3)))], "2,8,8"
    )
    repair(verify(folder), tmp_path / "all")
    repair(verify(folder, decode=True), tmp_path / "sound")
    assert labelled_images(tmp_path / "all") == [(0, b"no jpeg"), (1, sets.jpeg(3))]
    assert labelled_images(tmp_path / "sound") == [(1, sets.jpeg(3))]
    assert (tmp_path / "sound" / "quarantine.bin").read_bytes() == (folder / "train.rec").read_bytes()[: 8 + 24 + 7 + 1]


def test_records_that_another_writer_did_not_cut_are_cut(tmp_path):
    body = sets.payload(0, sets.jpeg(5)[:200] + sets.MAGIC + b"efgh")
    folder = sets.write(tmp_path / "set", [(1, sets.payload(0, sets.jpeg(4)))], "1,8,8")
    rec = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(rec + sets.MAGIC + struct.pack("<I", len(body)) + body)
    repair(verify(folder), tmp_path / "out")
    assert [image for _, image in labelled_images(tmp_path / "out")] == [sets.jpeg(4), body[24:]]
    assert verify(tmp_path / "out").faults == []


def test_nothing_whole(tmp_path):
    folder = sets.write(tmp_path / "set", [(1, sets.payload(float(np.nan), b"x"))], "1,8,8")
    with pytest.raises(RecordError, match="no whole image is left"):
        repair(verify(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_stay_with_the_images_that_are_whole(tmp_path):
    folder = sets.write(tmp_path / "set", sets.insightface(LABELS), "4,8,8\n")
    (folder / "paths.txt").write_text("".join(f"{key}.jpg\n" for key in range(1, 8)))
    assert verify(folder).faults == []
    rec = bytearray((folder / "train.rec").read_bytes())
    at = [int(line.split("\t")[1]) for line in (folder / "train.idx").read_text().splitlines()]
    rec[at[2] + 4 : at[2] + 8] = struct.pack("<I", 2**29 - 1)
    (folder / "train.rec").write_bytes(rec)
    repair(verify(folder), tmp_path / "out")
    assert RecordDataset(tmp_path / "out").paths == [f"{key}.jpg" for key in (1, 3, 4, 5, 6, 7)]
    (folder / "paths.txt").write_text("1.jpg\n")
    survey = verify(folder)
    assert [fault.problem.split(": ")[1] for fault in survey.faults if fault.kind == "paths"] == [
        "1 paths for 6 images; expected one line for each"
    ]
    repair(survey, tmp_path / "without")
    assert RecordDataset(tmp_path / "without").paths is None
