"""The lists of IJB as they are distributed."""

import numpy as np
import pytest
from made_ijb import write_lists

from megaface_eval.errors import InputError
from megaface_eval.formats import ijb
from megaface_eval.formats.ijb import read_faces, read_pairs, read_people, read_scores, set_in


@pytest.fixture
def folder(tmp_path):
    write_lists(tmp_path, np.random.default_rng(0), subjects=4, templates=12, images=40)
    return tmp_path


def read_all(folder):
    """Every list of the set."""
    place, name = set_in(folder)
    faces = read_faces(place, name)
    people = [read_people(place, name, which, faces) for which in ("gallery_G1", "gallery_G2", "probe_mixed")]
    return faces, read_scores(place, name, faces.images), read_pairs(place, name, faces), people


def test_the_lists_are_read_line_by_line(folder, monkeypatch):
    monkeypatch.setattr(ijb, "BLOCK_LINES", 7)  # several blocks
    faces, scores, pairs, people = read_all(folder)
    lines = [line.split() for line in (folder / "ijbc_face_tid_mid.txt").read_text().splitlines()]
    assert faces.images == [line[0] for line in lines]
    assert faces.ids[faces.template].tolist() == [int(line[1]) for line in lines]
    assert faces.media.tolist() == [int(line[2]) for line in lines]
    told = [line.split()[-1] for line in (folder / "ijbc_name_5pts_score.txt").read_text().splitlines()]
    assert scores.tolist() == np.array(told, np.float32).tolist()
    table = np.loadtxt(folder / "ijbc_template_pair_label.txt", int)
    got = np.stack([faces.ids[pairs.one], faces.ids[pairs.other], pairs.same], axis=1)
    np.testing.assert_array_equal(got, table)
    listed = np.loadtxt(folder / "ijbc_1N_probe_mixed.csv", int, delimiter=",", skiprows=1)
    probes = people[2]
    assert sorted(map(tuple, listed.tolist())) == sorted(zip(faces.ids[probes.template], probes.subject, strict=True))


def test_lists_may_lie_in_meta_and_begin_with_a_mark(folder):
    (folder / "meta").mkdir()
    for path in folder.glob("ijbc_*"):
        path.rename(folder / "meta" / path.name)
        moved = folder / "meta" / path.name
        moved.write_bytes(b"\xef\xbb\xbf" + moved.read_bytes().replace(b"\n", b"\r\n"))
    faces, _, pairs, _ = read_all(folder)
    assert len(faces.ids) == 12
    assert len(pairs.same) == 66


def test_a_template_listed_often_counts_once(folder):
    path = folder / "ijbc_1N_probe_mixed.csv"
    head, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([head, f"{first},img/1.png,17", first, *rest]) + "\n")
    assert len(read_all(folder)[3][2].template) == 8


FACES, SCORES, PAIRS = "ijbc_face_tid_mid.txt", "ijbc_name_5pts_score.txt", "ijbc_template_pair_label.txt"


@pytest.mark.parametrize(
    "name, old, new, problem",
    [
        (FACES, "3.jpg", "3.jpg 7", "line 3 is '3.jpg 7"),
        (FACES, "3.jpg ", "3.jpg -", "expected an image's name, a template and a media"),
        (SCORES, "40.jpg", "41.jpg", "expected 40.jpg, as in ijbc_face_tid_mid.txt"),
        (SCORES, None, "40.jpg 1 2\n", "41 lines, ijbc_face_tid_mid.txt has 40"),
        (SCORES, "10.5 0.", "10.5 x0.", "expected a number for the score"),
        (SCORES, "10.5 0.", "10.5 -0.", "expected a score from 0 up"),
        (SCORES, "10.5 0.", "10.5 nan0.", "expected a number for the score"),
        (PAIRS, None, "1 2\n", "line 67 is '1 2'; expected two templates and 1 or 0"),
        (PAIRS, None, "1 2 3 4\n", "line 67"),
        (PAIRS, None, "1.5 2 1\n", "line 67"),
        (PAIRS, None, "4000 4001 1\n", "1 of 67 entries name a template without images, the first 4000"),
        (PAIRS, " 1\n", " 2\n", "label 2"),
        (PAIRS, " 1\n", " 0\n", "have one label"),
        ("ijbc_1N_gallery_G1.csv", None, "4000,1\n", "template without images, the first 4000"),
        ("ijbc_1N_gallery_G2.csv", ",", ";", "expected a template and a subject"),
        ("ijbc_1N_probe_mixed.csv", None, "{first},999\n", "expected subject"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_answered_in_one_line(folder, name, old, new, problem):
    path = folder / name
    text = path.read_text()
    new = new.format(first=text.splitlines()[1].split(",")[0])
    path.write_text(text + new if old is None else text.replace(old, new))
    with pytest.raises(InputError) as error:
        read_all(folder)
    assert problem in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [FACES, SCORES, PAIRS, "ijbc_1N_gallery_G1.csv", "ijbc_1N_probe_mixed.csv"])
@pytest.mark.parametrize("how", ["missing", "empty", "latin"])
def test_every_list_must_be_there_and_text(folder, name, how):
    path = folder / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else b"\xff\xfe1 2 3\n")
    with pytest.raises(InputError, match=r"ijbc_|holds 0 of"):
        read_all(folder)


def test_two_sets_in_one_folder_are_refused(folder):
    (folder / "ijbb_face_tid_mid.txt").write_text("1.jpg 1 1\n")
    with pytest.raises(InputError, match="holds 2 of"):
        set_in(folder)
