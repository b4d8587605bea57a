"""The whole report against plain loops over images, and what it says where there is nothing to say."""

import json

import numpy as np
import pytest
from trials import BOUNDS, COUNTS, SOURCE, K, make_trial

from facelt.open_world.report.report import make_report
from facelt.open_world.report.schema import Report
from facelt.open_world.report.table import to_markdown


def by_hand(labels, right, classes) -> float | None:
    """The mean over some classes of their shares of right images."""
    shares = []
    for k in classes:
        mine = [r for r, label in zip(right, labels, strict=True) if label == k]
        if mine:
            shares.append(sum(mine) / len(mine))
    return sum(shares) / len(shares) if shares else None


@pytest.mark.parametrize("name", ["classifier", "memory"])
def test_every_figure_by_hand(name):
    t = make_trial()
    report = make_report(t, SOURCE)
    answers = t.answers[name]
    reading = next(r for r in report.readings if r.name == name)
    settings = [(reading.closed, -1.0)] + [(at.top1, at.threshold) for at in reading.open]
    for top1, threshold in settings:
        right = [
            said == label and certain >= threshold
            for said, label, certain in zip(answers.classes_N, t.labels_N, answers.probabilities_N, strict=True)
        ]
        assert top1.all.value == pytest.approx(sum(right) / len(right))
        for got, classes in [
            (top1.by_class, range(K)),
            (top1.many, [0, 1, 6]),
            (top1.medium, [2]),
            (top1.few, [3, 4, 5]),
        ]:
            assert got.value == pytest.approx(by_hand(t.labels_N, right, classes))
    for at in reading.open:
        tp = fp = earlier = 0
        for said, label, certain in zip(answers.classes_N, t.labels_N, answers.probabilities_N, strict=True):
            unknown = certain < at.threshold
            tp += said == label and not unknown
            fp += said != label or unknown
            earlier += said != label and not unknown
        fn = sum(p >= at.threshold for p in answers.open_probabilities_M)
        for got, false in ((at.f_measure, fp), (at.f_measure_earlier, earlier)):
            want = 2 * tp / (2 * tp + false + fn) if tp + false + fn else None
            assert got.value == (None if want is None else pytest.approx(want))
        assert at.accepted_strangers == pytest.approx(fn / 12)
        assert at.rejected_known == pytest.approx(np.mean([p < at.threshold for p in answers.probabilities_N]))
    assert (report.test_classes, report.classes, report.open_identities) == (6, 7, 5)
    assert (report.buckets.many, report.buckets.medium, report.buckets.few) == (2, 1, 3)


def test_empty_buckets_and_no_strangers_are_none_in_the_file_and_n_a_in_the_table():
    report = make_report(make_trial(strangers=0, counts=np.full(K, 5)), SOURCE)
    closed, at = report.readings[0].closed, report.readings[0].open[1]
    for nothing in (
        closed.many,
        closed.few,
        at.top1.few,
        at.f_measure,
        at.f_measure_earlier,
        report.detection[0].auroc,
    ):
        assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
    assert at.accepted_strangers is None
    text = report.model_dump_json()
    assert "NaN" not in text
    assert Report.model_validate_json(text) == report
    assert json.loads(text)["readings"][0]["closed"]["many"]["value"] is None
    said = to_markdown(report, BOUNDS)
    assert "n/a" in said
    assert "nan" not in said.lower()


def test_the_table_has_a_row_for_each_reading_and_threshold():
    said = to_markdown(make_report(make_trial(), SOURCE), BOUNDS)
    rows = [line.split("|")[1:3] for line in said.splitlines() if line.startswith(("| classifier", "| memory"))]
    found = [(name.strip(), kind.strip()) for name, kind in rows]
    kinds = ["closed", "open, 0", "open, 0.3", "open, 1"]
    assert found == [(name, kind) for name in ("classifier", "memory") for kind in kinds]
    assert "many ≥ 10 (2)" in said
    assert "few ≤ 3 (3)" in said


def test_accuracy_by_training_count_is_that_of_classes_in_bins_that_double():
    t = make_trial()
    bins = make_report(t, SOURCE).readings[0].by_count
    assert [(one.low, one.high, one.classes) for one in bins] == [
        (1, 1, 1),
        (2, 3, 2),
        (5, 5, 1),
        (10, 10, 1),
        (20, 20, 1),
    ]
    right = t.answers["classifier"].classes_N == t.labels_N
    for one in bins:
        classes = [k for k in range(K) if one.low <= COUNTS[k] <= one.high]
        assert one.accuracy.value == pytest.approx(by_hand(t.labels_N, right, classes))


def test_one_class_in_a_bucket_has_no_interval():
    closed = make_report(make_trial(), SOURCE).readings[0].closed
    assert closed.medium.value is not None
    assert closed.medium.low is None
    assert closed.few.low <= closed.few.value <= closed.few.high
