"""Gains over another report, by hand; reports that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from trials import SOURCE, make_trial

from facelt.errors import UserError
from facelt.open_world.report import page
from facelt.open_world.report.comparing import OtherReport
from facelt.open_world.report.per_class import PerClass
from facelt.open_world.report.report import make_report
from facelt.open_world.report.table import to_markdown
from facelt.open_world.report.trial import Trial


@pytest.fixture
def other(tmp_path):
    trial = make_trial(seed=5)
    page.write(tmp_path, make_report(trial, SOURCE), trial)
    return OtherReport.read(str(tmp_path))


def check(other: OtherReport, trial: Trial) -> None:
    other.check(list(trial.answers), trial.labels_N, trial.counts_K, len(trial.identities_M))


def test_gains_by_hand(other):
    mine = make_trial()
    check(other, mine)
    ours, theirs = PerClass.of(mine), PerClass.of(make_trial(seed=5))
    report = make_report(mine, SOURCE, other)
    assert report.comparison is not None
    assert [gain.name for gain in report.comparison.gains] == ["classifier", "memory"]
    for gain in report.comparison.gains:
        a, b = ours.results[gain.name], theirs.results[gain.name]
        differences = a.f1_C - b.f1_C
        assert gain.by_class.value == pytest.approx(differences.mean())
        assert gain.few.value == pytest.approx(differences[3:6].mean())
        assert gain.strangers == pytest.approx(a.strangers_f1 - b.strangers_f1)
    said = to_markdown(report, mine.bounds)
    assert f"F1 less that of {other.folder}, in points" in said


def test_only_what_both_read_is_compared(other):
    mine = make_trial()
    both = replace(mine, answers={"memory": mine.answers["memory"], "tau": mine.answers["classifier"]})
    check(other, both)
    comparison = make_report(both, SOURCE, other).comparison
    assert comparison is not None
    assert [gain.name for gain in comparison.gains] == ["memory"]
    with pytest.raises(UserError, match="reads by classifier, memory, here it is tau; --read one that both have"):
        check(other, replace(mine, answers={"tau": mine.answers["memory"]}))


def test_a_report_of_another_test_is_refused(other, tmp_path):
    mine = make_trial()
    for different, what in (
        (replace(mine, labels_N=mine.labels_N[:-1]), "test images"),
        (make_trial(without=(5,)), "classes"),
        (replace(mine, counts_K=mine.counts_K + 1), "training images"),
        (make_trial(strangers=11), "open images"),
    ):
        with pytest.raises(UserError, match=f"of another test, its {what} differ"):
            check(other, different)
    with pytest.raises(UserError, match=r"no readable report\.json"):
        OtherReport.read(str(tmp_path / "none"))
    (tmp_path / "report.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"no readable report\.json"):
        OtherReport.read(str(tmp_path))


def test_gains_are_of_aligned_classes(other):
    mine = make_trial()
    gains = other.gains(PerClass.of(mine))
    np.testing.assert_array_equal(other.per_class.labels_C, mine.classes_C)
    assert all(len(gain_C) == len(mine.classes_C) for gain_C in gains.values())
