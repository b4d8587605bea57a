"""A plot on a page: its words can be searched, its colours follow the page, its files stand alone."""

import base64
import re
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from recordio_tools.page.plot import Plot, to_csv
from recordio_tools.plot_style import COLOURS, INK, SCHEMES, STYLE


@pytest.fixture(scope="module")
def plot():
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot(title="A <title> & more", xlabel="rank")
        for number, colour in enumerate(COLOURS):
            axes.plot([0, 1], [0, number], marker="o", color=colour, label=f"line {number}")
        axes.legend()
    return Plot.of(figure, "some", "What it is <b>", "What it shows.", csv=to_csv([["x", "é"], [1, None]]))


def test_words_are_words_and_the_picture_has_a_name(plot):
    root = ElementTree.fromstring(plot.alone.partition("\n")[2])
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"A <title> & more", "rank", "line 3"} <= texts
    named = root.find("{http://www.w3.org/2000/svg}title")
    assert (root.get("role"), root.get("aria-labelledby"), named.text) == ("img", named.get("id"), "What it is <b>")


def test_on_the_page_every_colour_is_the_page_s(plot):
    assert INK not in plot.inline
    assert not any(colour in plot.inline for colour in SCHEMES)
    for number in range(len(COLOURS)):
        assert f"var(--plot-{number})" in plot.inline
    assert "currentColor" in plot.inline
    assert "var(" not in plot.alone
    assert all(colour in plot.alone for colour in COLOURS)


def test_ids_are_the_plot_s_own_and_lead_somewhere(plot):
    ids = re.findall(r'\bid="([^"]+)"', plot.inline)
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("some-") for name in ids)
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', plot.inline)) <= set(ids)


def test_files_are_what_links_hold(plot):
    for uri, kind, text in ((plot.svg_uri, "image/svg+xml", plot.alone), (plot.csv_uri, "text/csv", plot.csv)):
        head, _, data = uri.partition(";base64,")
        assert head.startswith(f"data:{kind}")
        assert base64.b64decode(data).decode() == text
    assert plot.csv == "x,é\n1,\n"
