"""The numbers behind every figure are those of the report."""

import pytest
from small_sets import report_in

from megaface_eval.report.curves import ROWS, figure_rows
from megaface_eval.report.plots import CAPTIONS
from megaface_eval.report.schema import Report


@pytest.fixture
def report(made):
    return Report(**report_in(made / "together"))


def test_every_figure_has_its_rows(report):
    assert ROWS.keys() == CAPTIONS.keys()
    for key in ROWS:
        head, *rows = figure_rows(report, key)
        assert all(len(row) == len(head) for row in rows)
        assert bool(rows) == (key not in ("quality", "fairness"))  # these were not asked for


def test_rows_are_the_curves(report):
    first = report.methods[0]
    mine = [row[1:] for row in figure_rows(report, "roc") if row[0] == first.name]
    roc = first.verification.roc
    assert mine == [list(point) for point in zip(roc.far, roc.tar, roc.threshold, strict=True)]
    old = roc.model_copy(update={"threshold": None})
    older = first.model_copy(update={"verification": first.verification.model_copy(update={"roc": old})})
    _, row, *_ = figure_rows(report.model_copy(update={"methods": [older]}), "roc")
    assert row == [first.name, roc.far[0], roc.tar[0], None]
    mine = [row[3:] for row in figure_rows(report, "open-set") if row[:3] == [first.name, "cosine", "G2"]]
    curve = first.open_set["cosine"].curves[1]
    assert mine == [list(point) for point in zip(curve.fpir, curve.tpir, strict=True)]
    mine = [row[1:] for row in figure_rows(report, "sizes") if row[0] == first.name]
    assert mine == [[one.gallery, one.rate, one.low, one.high] for one in first.sizes]
    mine = [row[1:4] for row in figure_rows(report, "scores") if row[0] == first.name]
    assert (mine[0][0], mine[-1][1], [row[2] for row in mine]) == (-1, 1, first.scores.mates)
