"""Validation sets, opened: what each is taken for is said, and what is not of its kind is refused in one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
from faces import write_faces

from facelt.config import ValidationConfig
from facelt.errors import UserError
from facelt.validation.sets import open_sets, whole_people
from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.bins import Pack, read_pack, write_pack

sys.path.insert(0, str(Path(__file__).parent))
from sets_of_faces import write_sets, write_toy_pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_faces(folder / "train")
    write_sets(folder)
    return folder


def opened(folder: Path, **lists: object):
    return open_sets(ValidationConfig.model_validate(lists), RecordDataset(folder / "train"))


def test_each_set_is_said_for_what_it_is_taken(folder, capsys):
    sets = opened(folder, packs=str(folder / "toy.bin"), strangers=str(folder / "held"), known=str(folder / "val"))
    assert [one.passes for one in sets] == [120, 27, 15]
    assert capsys.readouterr().err.splitlines() == [
        "validation: toy: 30 pairs",
        "validation: held: 27 images of 9 people who are not trained on",
        "validation: val: 15 images of 5 of the training people",
    ]


def refused(folder: Path, **lists: object) -> str:
    with pytest.raises(UserError) as caught:
        opened(folder, **lists)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("knob", ["packs", "strangers", "known"])
def test_what_is_missing_or_empty_is_refused(folder, tmp_path, knob):
    said = refused(folder, **{knob: str(tmp_path / "nowhere")})
    assert said.startswith(f"validation.{knob}: {tmp_path / 'nowhere'}: no such f")
    assert f"--set validation.{knob}=[]" in said
    (tmp_path / "empty").mkdir()
    assert ("is a folder" if knob == "packs" else "train.rec") in refused(folder, **{knob: str(tmp_path / "empty")})


def test_a_set_of_another_kind_is_refused(folder, tmp_path):
    assert "give it as validation.packs" in refused(folder, known=str(folder / "toy.bin"))
    assert "validation.strangers or validation.known" in refused(folder, packs=str(folder / "val"))
    alone = write_faces(tmp_path / "alone", classes=4, images=1, called="x")
    assert "4 people with 1 images at most" in refused(folder, strangers=str(alone))
    one = write_faces(tmp_path / "one", classes=1, called="x")
    assert "1 people with 6 images" in refused(folder, strangers=str(one))
    assert "label 5 has no image in the training set" in refused(
        folder, known=str(write_faces(tmp_path / "more", classes=6))
    )
    others = write_faces(tmp_path / "others", classes=5, called="other")
    assert "label 0 is other-0, in" in refused(folder, known=str(others))


def test_known_images_of_a_list_with_a_gap_are_refused(folder, tmp_path):
    gap = write_faces(tmp_path / "gap", classes=2)
    (gap / "names.txt").unlink()
    (gap / "manifest.json").write_text('{"list_labels": [0, 2]}')
    line = refused(folder, known=str(gap))
    assert "label 1 is label 2 of the list, in" in line
    assert "--labels-of" in line


def test_a_pack_that_cannot_be_scored_is_refused(folder, tmp_path):
    assert "9 pairs" in refused(folder, packs=str(write_toy_pack(tmp_path / "short.bin", pairs=9)))
    assert "20 of one person" in refused(folder, packs=str(write_toy_pack(tmp_path / "mated.bin", 20, same=1)))
    pack = read_pack(folder / "toy.bin")
    broken = [*pack.images[:-1], b"no image"]
    write_pack(tmp_path / "broken.bin", Pack(broken, pack.same))
    assert "image 59 does not decode" in refused(folder, packs=str(tmp_path / "broken.bin"))
    content = (folder / "toy.bin").read_bytes()
    (tmp_path / "uneven.bin").write_bytes(content[: len(content) // 2])
    assert "not a verification pack" in refused(folder, packs=str(tmp_path / "uneven.bin"))


def test_strangers_who_are_trained_on_are_a_warning(folder, tmp_path, capsys):
    opened(folder, strangers=str(folder / "train"), known=str(folder / "val"))
    assert "is the training set itself" in capsys.readouterr().err
    opened(folder, strangers=str(folder / "val"))
    assert "shares 5 people with the training set, person-0 the first" in capsys.readouterr().err
    opened(folder, strangers=str(folder / "held"))
    assert "warning" not in capsys.readouterr().err


def test_of_a_large_set_whole_people_are_drawn_and_always_the_same():
    labels = np.repeat(np.arange(50), np.arange(1, 51))
    rows = whole_people(labels, 400)
    counts = np.bincount(labels[rows], minlength=50)
    assert 350 < len(rows) <= 400
    assert set(np.unique(counts - np.arange(1, 51))) <= {0, *(-n for n in range(1, 51))}
    assert all(count in (0, n) for n, count in zip(range(1, 51), counts, strict=True))
    assert np.array_equal(rows, whole_people(labels, 400))
    assert np.array_equal(whole_people(labels, 5000), np.arange(len(labels)))
