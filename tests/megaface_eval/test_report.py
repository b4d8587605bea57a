"""Tables, LaTeX, and the HTML file as a browser shows it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from megaface_eval.compare import load_report
from megaface_eval.features import write_features
from megaface_eval.report import markdown_table, percent, to_latex
from megaface_eval.run import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two methods on images, reported apart and together."""
    root = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    rows = rng.standard_normal((6, 16))[labels] + 0.8 * rng.standard_normal((30, 16))
    distractors = rng.standard_normal((200, 16)).astype(np.float32)
    names, probe_paths = [f"person_{i}" for i in range(6)], [f"p{i}.png" for i in range(30)]
    for i, path in enumerate(probe_paths):
        Image.fromarray(np.full((20, 20, 3), 8 * i, np.uint8)).save(root / path)
    sets = {}
    for name, spread in (("good", 0.0), ("bad_one", 0.8)):
        noisy = (rows + spread * rng.standard_normal(rows.shape)).astype(np.float32)
        write_features(root / name, noisy, labels, names, probe_paths, {"method": name})
        sets[name] = f"{root}/{name}"
    write_features(root / "d", distractors, np.zeros(200, int), paths=[f"d/{i}.jpg" for i in range(200)])
    common = ["--gallery", "200", "--distractors", f"{root}/d", "--probe-images", str(root), "--devkit-results"]
    for name, path in sets.items():
        assert main([*common, "--probes", path, "--output", f"{root}/report-{name}"]) == 0
    methods = [f"--method={name}={path},{root}/d" for name, path in sets.items()]
    assert main(["--gallery", "200", *methods, "--output", f"{root}/together"]) == 0
    assert main(["--compare", f"{root}/report-good", f"{root}/report-bad_one", "--output", f"{root}/compared"]) == 0
    return root


def contents_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_reports_compared_are_the_methods_evaluated_together(made):
    together, compared = contents_of(made / "together"), contents_of(made / "compared")
    assert compared["differences"] == together["differences"]
    assert compared["statements"] == together["statements"]
    for one, other in zip(compared["methods"], together["methods"], strict=True):
        assert one["cells"] == other["cells"]
        assert one["verification"] == other["verification"]


def test_reports_of_different_tasks_are_not_compared(made, capsys):
    assert (
        main(
            ["--gallery", "100", "--probes", f"{made}/good", "--distractors", f"{made}/d", "--output", f"{made}/small"]
        )
        == 0
    )
    capsys.readouterr()
    for second, problem in (("small", "gallery differ"), ("good", "not a report"), ("report-good", "named twice")):
        assert main(["--compare", f"{made}/report-good", f"{made}/{second}", "--output", f"{made}/no"]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert len(error.splitlines()) == 1
    assert not (made / "no").exists()


def test_tallies_are_those_of_the_table(made):
    contents, tallies = load_report(made / "together")
    for method, held in zip(contents["methods"], tallies, strict=True):
        for key, cell in method["cells"].items():
            if cell["rate"] is not None:
                assert held[key].rate == cell["rate"]
                assert held[key].trials.sum() == cell["trials"]


def test_latex_marks_the_best_and_escapes_names(made):
    contents = contents_of(made / "compared")
    text = to_latex(contents)
    assert text == (made / "compared/table.tex").read_text()
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}"
    best = percent(contents["methods"][0]["cells"]["full"]["rate"])
    assert rf"\textbf{{{best}}}" in lines[4]
    assert lines[5].startswith(r"bad\_one & -- & -- & -- & -- & ")
    assert all(line.endswith(r"\\") for line in lines if "&" in line)


def test_columns_line_up():
    lines = markdown_table([["a", "bb"], ["long", "1"], ["x", "≥5"]]).splitlines()
    assert lines == ["| a    | bb |", "|------|---:|", "| long |  1 |", "| x    | ≥5 |"]


def test_devkit_results_agree_with_the_report(made):
    method = contents_of(made / "report-good")["methods"][0]
    curves = json.loads((made / "report-good/cmc_facescrub_megaface_good_200_1.json").read_text())
    assert curves["cmc"][1][0] == method["cells"]["full"]["rate"]
    matches = json.loads((made / "report-good/matches_facescrub_megaface_good_200_1.json").read_text())
    ranks = [rank for item in matches for rank in item["probes"]["rank"]]
    assert len(matches) == 30
    assert len(ranks) == 30 * 4
    assert np.mean(np.array(ranks) == 0) == pytest.approx(method["cells"]["full"]["rate"])


def test_misses_are_the_widest_margins_with_thumbnails(made):
    misses = contents_of(made / "report-bad_one")["methods"][0]["misses"]
    margins = [miss["distractor_score"] - miss["mate_score"] for miss in misses]
    assert margins == sorted(margins, reverse=True)
    assert min(margins) > 0
    for miss in misses:
        probe, mate, distractor = miss["images"]
        assert probe["thumbnail"].startswith("data:image/jpeg;base64,")
        assert probe["path"] == f"p{probe['row']}.png"
        assert probe["row"] // 5 == mate["row"] // 5
        assert distractor["thumbnail"] is None
        assert miss["rank"] > 1
    assert len({miss["images"][0]["row"] for miss in misses}) == len(misses)


def test_the_page_asks_nothing_of_the_network(made):
    html = (made / "report-bad_one/report.html").read_text()
    assert not re.findall(r'(?:src|href|action)="(?!data:|#)[^"]*"', re.sub(r'xlink:href="#[^"]*"', "", html))
    assert "@import" not in html
    assert "<script" not in html


def test_names_cannot_break_the_page(made):
    assert (
        main(
            ["--gallery", "200", f"--method=<script>alert(1)</script>={made}/good,{made}/d", "--output", f"{made}/evil"]
        )
        == 0
    )
    html = (made / "evil/report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_every_figure_and_the_table(made, tmp_path):
    page = (made / "together/report.html").as_uri()
    options = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    dom = subprocess.run([*options, "--dump-dom", page], capture_output=True, text=True, timeout=120).stdout
    figures = re.findall(r'<figure id="figure-([a-z-]+)"[^>]*>\s*<svg', dom)
    assert figures == ["cmc", "sizes", "roc", "open-set", "bars", "scores"]
    cells = re.findall(r"<td[^>]*>([^<]*)", dom[dom.index('id="table4"') :])
    full = percent(contents_of(made / "together")["methods"][0]["cells"]["full"]["rate"])
    assert full in cells
    shot = tmp_path / "page.png"
    subprocess.run(
        [*options, "--hide-scrollbars", "--window-size=1200,2400", f"--screenshot={shot}", page],
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[:2] == (2400, 1200)
    # both methods' colours are on the page
    for colour in ((0x0B, 0x6E, 0x99), (0xD1, 0x49, 0x5B)):
        assert (np.abs(pixels.astype(int) - colour).sum(axis=2) < 12).sum() > 500
