"""Tables, LaTeX, and the HTML file as a browser shows it."""

import csv
import json
import re

import numpy as np
import pytest
from browser import by_axe, needs_axe, needs_chromium, run, width_at
from PIL import Image
from small_sets import report_in

from megaface_eval.report.schema import Report
from megaface_eval.report.tables import markdown_table, to_latex
from megaface_eval.report.wording import percent
from megaface_eval.run import main

FIGURES = ["cmc", "sizes", "roc", "open-set", "bars", "scores"]


def test_latex_marks_the_best_and_escapes_names(made):
    contents = report_in(made / "compared")
    text = to_latex(Report(**contents))
    assert text == (made / "compared/table.tex").read_text()
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}"
    best = percent(contents["methods"][0]["cells"]["full"]["rate"])
    assert rf"\textbf{{{best}}}" in lines[4]
    assert lines[5].startswith(r"bad\_one & -- & -- & -- & -- & ")
    assert all(line.endswith(r"\\") for line in lines if "&" in line)


def test_names_cannot_break_a_table(made):
    contents = report_in(made / "compared")
    contents["methods"][0]["name"] = "a|b\\c{$^~"
    contents["columns"][-1]["title"] = "50% & #1"
    lines = to_latex(Report(**contents)).splitlines()
    assert lines[4].startswith(r"a|b\textbackslash{}c\{\$\textasciicircum{}\textasciitilde{} & ")
    assert lines[2].endswith(r"50\% \& \#1 \\")
    assert markdown_table([["a|b", "c"], ["d", "e"]]).splitlines()[0] == r"| a\|b | c |"


def test_columns_line_up():
    lines = markdown_table([["a", "bb"], ["long", "1"], ["x", "≥5"]]).splitlines()
    assert lines == ["| a    | bb |", "|------|---:|", "| long |  1 |", "| x    | ≥5 |"]


def test_devkit_results_agree_with_the_report(made):
    method = report_in(made / "report-good")["methods"][0]
    curves = json.loads((made / "report-good/cmc_facescrub_megaface_good_200_1.json").read_text())
    assert curves["cmc"][1][0] == method["cells"]["full"]["rate"]
    matches = json.loads((made / "report-good/matches_facescrub_megaface_good_200_1.json").read_text())
    ranks = [rank for item in matches for rank in item["probes"]["rank"]]
    assert len(matches) == 30
    assert len(ranks) == 30 * 4
    assert np.mean(np.array(ranks) == 0) == pytest.approx(method["cells"]["full"]["rate"])


def test_the_page_asks_nothing_of_the_network(made):
    html = (made / "report-bad_one/report.html").read_text()
    assert not re.findall(r'(?:src|href|action)="(?!data:|#)[^"]*"', html)
    assert "@import" not in html
    assert re.findall("<script[^>]*>", html) == ["<script>"]


def test_names_cannot_break_the_page(made):
    method = f"--method=<script>alert(1)</script>={made}/good,{made}/d"
    assert main(["--gallery", "200", method, "--output", f"{made}/evil"]) == 0
    html = (made / "evil/report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_the_page_holds_every_figure_once(made):
    html = (made / "together/report.html").read_text()
    assert re.findall(r'<figure id="figure-([a-z-]+)"[^>]*>\s*<div[^>]*><svg', html) == FIGURES
    assert html.count("<svg") == len(FIGURES)


@needs_chromium
def test_a_browser_shows_every_figure_and_the_table(made, tmp_path):
    page = made / "together/report.html"
    dom = run(page, tmp_path, "--dump-dom")
    figures = re.findall(r'<figure id="figure-([a-z-]+)"[^>]*>\s*<div[^>]*><svg', dom)
    assert figures == FIGURES
    cells = re.findall(r"<td[^>]*>([^<]*)", dom[dom.index('id="table4"') :])
    full = percent(report_in(made / "together")["methods"][0]["cells"]["full"]["rate"])
    assert full in cells
    shot = tmp_path / "page.png"
    run(page, tmp_path, "--hide-scrollbars", "--window-size=1200,2400", f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[:2] == (2400, 1200)
    # both methods' colours are on the page
    for colour in ((0x0B, 0x6E, 0x99), (0xD1, 0x49, 0x5B)):
        assert (np.abs(pixels.astype(int) - colour).sum(axis=2) < 12).sum() > 500


def test_figures_can_be_taken_away_with_their_numbers(made):
    folder = made / "together/figures"
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "csv")}
    contents = report_in(made / "together")
    with (folder / "cmc.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for method in contents["methods"]:
        mine = [row for row in rows if row["method"] == method["name"]]
        assert [int(row["rank"]) - 1 for row in mine] == method["cmc"]["rank"]
        assert [float(row["recall"]) for row in mine] == method["cmc"]["recall"]
    with (folder / "bars.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank1"] for row in rows[:4]] == [""] * 4  # buckets were not measured


def test_headings_say_what_they_head(made):
    html = (made / "together/report.html").read_text()
    assert not re.findall(r"<th(?! scope=)[ >]", html)
    assert html.count("<figcaption>") == len(FIGURES)
    assert 'href="#content"' in html
    for title in ("Cumulative match", "Open set"):
        assert f">{title}</title>" in html
    assert ">distractors</text>" in html  # words of a plot are words


@needs_chromium
def test_a_phone_and_a_desk_show_all_of_it(made, tmp_path):
    page = made / "together/report.html"
    assert width_at(page, 390, tmp_path) == (390, [])
    assert width_at(page, 1400, tmp_path) == (1400, [])


@needs_axe
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(made, tmp_path, dark):
    assert by_axe(made / "report-bad_one/report.html", tmp_path, dark=dark) == []
