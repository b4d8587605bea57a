"""Curves by hand; every plot is drawn, also where there is little to draw."""

import numpy as np
import pytest
from trials import SOURCE, K, make_trial

from facelt.open_world.report import plots
from facelt.open_world.report.report import make_report


def test_the_curve_of_f_is_the_figure_of_the_report():
    trial = make_trial()
    report = make_report(trial, SOURCE)
    for reading in report.readings:
        thresholds, values = plots.f_curve(trial.answers[reading.name], trial.labels_N)
        assert (thresholds[0], thresholds[-1]) == (0, 1)
        for at in reading.open:
            assert values[np.flatnonzero(np.isclose(thresholds, at.threshold))[0]] == pytest.approx(at.f_measure.value)


def test_the_roc_ends_at_its_corners():
    axes = plots.strangers_roc(make_trial()).axes[0]
    for line in axes.lines[:-1]:
        x, y = line.get_data()
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) >= 0).all()


def test_plots_of_strangers_are_there_where_strangers_are():
    for strangers, names in ((0, ["training-count"]), (12, ["training-count", "roc", "f-measure"])):
        trial = make_trial(strangers, counts=np.full(K, 5))
        drawn = plots.draw(make_report(trial, SOURCE), trial, {})
        assert list(drawn) == names
        for plot in plots.on_page(drawn):
            assert plot.inline.startswith("<svg")
            assert "currentColor" in plot.inline
            assert plots.INK not in plot.inline


def test_a_curve_keeps_its_ends_when_it_is_thinned():
    for size in (2, plots.POINTS, 10_000):
        places = plots._thinned(size)
        assert (places[0], places[-1]) == (0, size - 1)
        assert len(places) <= plots.POINTS
