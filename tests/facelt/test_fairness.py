"""The whole command against counting by hand; mistakes in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from faces import write_faces
from runs import write_random_run

from facelt import fairness
from recordio_tools.dataset import RecordDataset

sys.path.insert(0, str(Path(__file__).parent / "figures"))
from by_hand import see_by_hand

K = 5
PEOPLE = "name\tsex\tage\n" + "".join(
    f"person-{k}\t{'female' if k % 2 else 'male'}\t{'old' if k else ''}\n" for k in range(K)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fairness")
    write_faces(folder / "train", classes=K, images=8)
    write_faces(folder / "test", classes=K, images=5)
    write_random_run(folder / "run", K)
    (folder / "people.tsv").write_text(PEOPLE)
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def words(output, *more, attributes="people.tsv", test="test"):
    named = ["--train", "train", "--data", test, "--attributes", attributes, "--output", str(output)]
    return ["run", *named, "--draws", "20", *more]


def test_the_report_by_hand(tmp_path, capsys):
    assert fairness.main(words(tmp_path / "out", "--batch", "7")) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text().strip() in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fairness.json", "fairness.png", "table.md"]
    report = json.loads((tmp_path / "out" / "fairness.json").read_text())
    test = RecordDataset("test")
    right = see_by_hand(Path("run"), test).probabilities.argmax(1).numpy() == test.labels
    sex, age = report["attributes"]
    odd = test.labels % 2 == 1
    of = {group["value"]: group for group in sex["groups"]}
    assert of["female"]["accuracy"]["value"] == pytest.approx(right[odd].mean())
    assert of["male"]["accuracy"]["value"] == pytest.approx(right[~odd].mean())
    assert (of["female"]["classes"], of["male"]["test_images"], of["male"]["training_images"]) == (2, 15, 8)
    assert sex["gap"]["at_equal_counts"]["value"] == pytest.approx(abs(right[odd].mean() - right[~odd].mean()))
    assert (age["unknown"], age["gap"], [group["value"] for group in age["groups"]]) == (1, None, ["old"])


def test_a_file_of_some_people_is_refused_without_partial_which_says_how_many(folder, tmp_path, capsys):
    (folder / "some.tsv").write_text("person-0\tmale\nperson-1\tfemale\nperson-9\tmale\n")
    line = refused(capsys, words(tmp_path / "out", attributes="some.tsv"))
    assert "--attributes some.tsv: 3 of 5 people are not in it (such as 'person-2'); complete it, or give" in line
    assert not (tmp_path / "out").exists()
    assert fairness.main(words(tmp_path / "out", "--partial", attributes="some.tsv")) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "some.tsv" in line]
    assert "3 of 5 people are not in it (such as 'person-2') and are in no group" in line
    report = json.loads((tmp_path / "out" / "fairness.json").read_text())
    assert report["attributes"][0]["unknown"] == 3


@pytest.mark.parametrize(
    "text, said",
    [
        ("zoe\tmale\n", "none of the 5 people is in it (such as 'person-0')"),
        ("", "no lines"),
        ("name\tsex\nperson-0\n", "line 2 has 1 tab-separated"),
        ("person-0\ta\nperson-0\tb\n", "'person-0' again"),
        (None, "not readable"),
    ],
)
def test_wrong_attributes(folder, tmp_path, capsys, text, said):
    path = tmp_path / "a.tsv"
    if text is not None:
        path.write_text(text)
    assert said in refused(capsys, words(tmp_path / "out", attributes=str(path)))
    assert not (tmp_path / "out").exists()


def test_a_test_set_of_other_people(folder, tmp_path, capsys):
    write_faces(tmp_path / "other", classes=K + 1)
    assert "has no image in --train" in refused(capsys, words(tmp_path / "out", test=str(tmp_path / "other")))


def refused(capsys, given) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        fairness.main(given)
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


def test_sets_without_names_go_by_number(tmp_path, capsys):
    train, test = (write_faces(tmp_path / name, classes=K, images=6) for name in ("train", "test"))
    for folder in (train, test):
        (folder / "names.txt").unlink()
    (tmp_path / "numbers.tsv").write_text("".join(f"{k}\t{'ab'[k % 2]}\n" for k in range(K)))
    given = ["--train", str(train), "--data", str(test), "--attributes", str(tmp_path / "numbers.tsv")]
    assert fairness.main(["run", *given, "--output", str(tmp_path / "out"), "--draws", "9"]) == 0
    report = json.loads((tmp_path / "out" / "fairness.json").read_text())
    assert [group["classes"] for group in report["attributes"][0]["groups"]] == [3, 2]
    assert np.isfinite(report["attributes"][0]["gap"]["at_equal_counts"]["value"])
