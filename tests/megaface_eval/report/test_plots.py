"""Figures show the numbers they are given."""

import numpy as np
import pytest

from megaface_eval.report.plots import bars_figure, cmc_figure, open_set_figure, to_png
from megaface_eval.report.schema import Cell, Cmc, ColumnHead, MethodReport, OpenSet, OpenSetCurve
from recordio_tools.page.plot import to_svg


def method(name, rates):
    """A method with these rates and one CMC; nothing else is measured."""
    cells = {
        key: Cell.model_construct(
            rate=rate, low=rate and rate - 0.1, high=rate and rate + 0.05, probes=9 if rate else 0
        )
        for key, rate in rates.items()
    }
    return MethodReport.model_construct(name=name, cells=cells, cmc=Cmc(rank=[0, 4, 50], recall=[0.5, 0.75, 1.0]))


def test_the_cmc_s_line_is_the_curve_to_the_end_of_the_gallery():
    (axes,) = cmc_figure([method("m", {})], 1000).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1, 5, 51, 1001]
    assert line.get_ydata().tolist() == [0.5, 0.75, 1.0, 1.0]
    assert axes.get_xscale() == "log"


def test_a_name_is_no_formula_and_never_left_out():
    figure = cmc_figure([method("$\\frac$", {}), method("_hidden", {})], 100)
    assert to_svg(figure)  # drawn: a formula that cannot be read raises
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        r"\$\frac\$ (50.00)", " _hidden (50.00)"
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, 3, 9])
def test_names_lie_below_the_plot_and_within_the_figure(number):
    figure = cmc_figure([method(f"a method with a rather long name {i}", {}) for i in range(number)], 1000)
    figure.draw_without_rendering()
    (legend,), (axes,) = figure.legends, figure.axes
    names = legend.get_window_extent()
    assert names.y1 <= axes.get_tightbbox().y0 + 1
    assert names.x0 >= 0
    assert names.x1 <= figure.bbox.x1
    assert axes.get_window_extent().height > 0.4 * 3.8 * figure.dpi


def test_bars_have_their_heights_and_intervals_and_an_empty_bucket_says_so():
    columns = [ColumnHead(key=key, title=key.upper(), group="") for key in "ab"]
    (axes,) = bars_figure([method("m", {"a": 0.8, "b": None})], columns).axes
    assert [bar.get_height() for bar in axes.patches] == [0.8]
    assert [text.get_text() for text in axes.texts] == ["n = 0"]
    (error,) = axes.containers[1:] if len(axes.containers) > 1 else axes.containers
    (segment,) = error.lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 1], [0.7, 0.85])


def test_open_set_curves_are_the_mean_of_both_galleries():
    curves = [
        OpenSetCurve(fpir=[0.1, 0.5, 1.0], tpir=[0.2, 0.4, 1.0]),
        OpenSetCurve(fpir=[0.2, 1.0], tpir=[0.6, 0.8]),
    ]
    (axes,) = open_set_figure({"m": {"cosine": OpenSet.model_construct(curves=curves)}}).axes
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [0.2, 0.5, 1.0])
    np.testing.assert_allclose(line.get_ydata(), [0.4, 0.5, 0.9])


def test_figures_become_svg_and_png():
    figure = cmc_figure([method("m", {})], 100)
    assert to_svg(figure).startswith("<svg")
    assert to_svg(figure).rstrip().endswith("</svg>")
    assert to_png(figure).startswith(b"\x89PNG")
