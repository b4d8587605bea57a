"""The command for closed sets."""

import json

import numpy as np
import pytest

from megaface_eval.closed_set import main
from megaface_eval.features.feature_set import load_features, write_features
from megaface_eval.protocols.closed_set import ClosedSetRule, search_people


@pytest.fixture
def sets(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    for name, spread in (("good", 0.8), ("bad", 2.0)):
        rows = rng.standard_normal((8, 6))[labels] + spread * rng.standard_normal((48, 6))
        write_features(tmp_path / name, rows.astype(np.float32), labels)
    return tmp_path


def test_a_line_for_each_method_and_number_of_images(sets, capsys):
    methods = [f"--method={name}={sets}/{name}" for name in ("good", "bad")]
    arguments = [*methods, "--enrol", "1", "3", "--template", "mean", "--output", f"{sets}/report"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    held = json.loads((sets / "report/report.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row["entries"] for row in held["tables"][0]["rows"]}
    assert list(rows) == ["good, 1 enrolled", "good, 3 enrolled", "bad, 1 enrolled", "bad, 3 enrolled"]
    features = load_features(sets / "bad")
    found = search_people(features.unit(0, 48), features.labels, ClosedSetRule(enrol=3, template="mean"))
    values = [entry["value"] for entry in rows["bad, 3 enrolled"]]
    assert values == pytest.approx([*(np.mean(found.rank < k) for k in (1, 5, 10, 100)), 24, 8])
    assert rows["bad, 3 enrolled"][0]["low"] < values[0] < rows["bad, 3 enrolled"][0]["high"]
    assert f"{100 * values[0]:.2f}" in printed
    curve = held["curves"][3]
    assert curve["y"][-1] == 1
    assert curve["x"][-1] == 8
    assert main(arguments) == 2


def test_mistakes_are_answered_in_one_line(sets, capsys):
    write_features(sets / "other", np.ones((3, 6), np.float32), np.arange(3))
    good = f"--method=good={sets}/good"
    for arguments, problem in (
        (["--method", "x"], "expected NAME=FEATURES"),
        ([good, good], "every name once"),
        ([good, f"--method=b={sets}/other"], "labels are not those of"),
        ([good, "--enrol", "0"], "--enrol 0"),
        ([good, "--enrol", "6"], "nobody has more than 6 images"),
    ):
        assert main([*arguments, "--output", f"{sets}/out"]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert len(error.splitlines()) == 1
        assert not (sets / "out").exists()
