"""Images that do not decode: every rank learns of all, the list has each once, a resume goes on with it."""

from pathlib import Path

import pytest
from faces import write_faces
from ranks import run_ranks

from facelt.errors import UserError
from facelt.parallel import group
from facelt.run_folder.quarantine import NAME, Quarantine
from recordio_tools.check.unreadable import read_unreadable
from recordio_tools.dataset import RecordDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("quarantine") / "data")


def met(data: str, folder: str, images: list[list[int]], share: float) -> dict:
    try:
        quarantine = Quarantine(Path(folder), RecordDataset(data), share)
        before = dict(quarantine.reasons)
        for image in images[group.rank()]:
            quarantine.note(image, f"reason {image}")
        quarantine.settle()
    except UserError as mistake:
        return {"refused": str(mistake)}
    return {"before": before, "after": dict(quarantine.reasons), "fresh": quarantine.fresh}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_each_rank_meets_is_known_to_all_and_listed_once(data, tmp_path, ranks):
    images = [[3, 7], [7, 9], []][:ranks]
    every = {image: f"reason {image}" for part in images for image in part}
    for answer in run_ranks(ranks, met, str(data), str(tmp_path), images, 0.2):
        assert (answer["before"], answer["after"], answer["fresh"]) == ({}, every, False)
    again = run_ranks(ranks, met, str(data), str(tmp_path), [[3], [12], []][:ranks], 0.2)
    every_again = every | ({12: "reason 12"} if ranks > 1 else {})
    assert all((answer["before"], answer["after"]) == (every, every_again) for answer in again)
    keys = RecordDataset(data).keys
    listed = read_unreadable(tmp_path / NAME)
    assert sorted(one.key for one in listed) == sorted(keys[list(every_again)])


def test_more_than_the_share_are_refused_in_one_line_now_and_at_the_next_start(data, tmp_path):
    answers = run_ranks(2, met, str(data), str(tmp_path), [[1, 2], [3, 4]], 0.1)  # 3 of 30
    assert len({answer["refused"] for answer in answers}) == 1
    assert "more than max_unreadable 0.1 of 30 images" in answers[0]["refused"]
    assert "\n" not in answers[0]["refused"]
    assert all("refused" in answer for answer in run_ranks(2, met, str(data), str(tmp_path), [[], []], 0.1))
    assert all("refused" not in answer for answer in run_ranks(2, met, str(data), str(tmp_path), [[], []], 0.14))


def test_a_rank_that_meets_too_many_stops_by_itself_and_one_may_always_be(data, tmp_path):
    quarantine = Quarantine(tmp_path, RecordDataset(data), 0.0)
    quarantine.note(5, "torn")
    quarantine.settle()
    with pytest.raises(UserError, match=r"images of records 6, 7 do not decode \(torn\): more than max_unreadable 0 "):
        quarantine.note(6, "torn")
    assert len(read_unreadable(tmp_path / NAME)) == 2


def test_lines_of_a_set_that_was_mended_meanwhile_and_a_torn_one_are_dropped(data, tmp_path):
    met(str(data), str(tmp_path), [[3, 7]], 0.2)
    path = tmp_path / NAME
    lines = path.read_text().splitlines(keepends=True)
    other = read_unreadable(path)[0]._replace(crc32=1).line()
    path.write_text(other + lines[1] + lines[0][:20])
    assert met(str(data), str(tmp_path), [[]], 0.2)["before"] == {7: "reason 7"}
    assert path.read_text() == lines[1]


def test_a_damaged_list_is_set_aside_and_made_anew(data, tmp_path, capsys):
    met(str(data), str(tmp_path), [[3, 7]], 0.2)
    path = tmp_path / NAME
    damaged = "\0" * 20 + "\n" + path.read_text()
    path.write_text(damaged)
    assert met(str(data), str(tmp_path), [[7]], 0.2)["before"] == {}
    assert (tmp_path / f"{NAME}.damaged").read_text() == damaged
    assert len(read_unreadable(path)) == 1
    assert "set aside as quarantine.jsonl.damaged" in capsys.readouterr().err
