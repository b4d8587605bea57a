"""The folder of a report: what is in it, and that the page stands alone."""

import re

from browser import by_axe, needs_axe, width_at
from trials import SOURCE, make_trial

from facelt.open_world.report import page
from facelt.open_world.report.comparing import OtherReport
from facelt.open_world.report.report import make_report


def test_the_page_stands_alone_and_names_what_was_given(tmp_path):
    trial = make_trial()
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    page.write(first, make_report(trial, SOURCE), trial)
    source = SOURCE.model_copy(update={"data": "<b>data</b>"})
    other = OtherReport.read(str(first))
    second.mkdir()
    page.write(second, make_report(trial, source, other), trial, other)
    assert sorted(path.name for path in second.iterdir()) == sorted(page.FILES)
    html = (second / "report.html").read_text()
    assert "&lt;b&gt;data" in html
    assert not re.findall(r"<(?:script [^>]*src|link|img)|url\(https?:", html)
    assert html.count("<figure") == html.count("<svg") == 5
    assert "prefers-color-scheme: dark" in html
    for cell in ("classifier", "open, 0.3", "max softmax", "strangers as unknown"):
        assert cell in html


@needs_axe
def test_axe_finds_nothing_serious_and_a_phone_shows_all_of_it(tmp_path):
    trial = make_trial()
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    page.write(first, make_report(trial, SOURCE), trial)
    other = OtherReport.read(str(first))
    second.mkdir()
    page.write(second, make_report(trial, SOURCE, other), trial, other)
    assert by_axe(second / "report.html", tmp_path) == []
    assert width_at(second / "report.html", 390, tmp_path)[0] == 390
    assert width_at(second / "report.html", 1400, tmp_path) == (1400, [])
