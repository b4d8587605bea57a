"""The command for IJB, from lists and features to tables, against loops in float64."""

import csv
import itertools
import json

import numpy as np
import pytest
from made_ijb import write_ijb_features, write_lists

from megaface_eval.features.feature_set import write_features
from megaface_eval.ijb import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small set and its features; what made them."""
    folder = tmp_path_factory.mktemp("ijb")
    rng = np.random.default_rng(3)
    of, media, subject = write_lists(folder / "lists", rng)
    rows = write_ijb_features(folder, rng, of, subject, spread=2.5)
    return folder, of, media, subject, rows


def run(folder, *options, lists="lists"):
    """Exit status of the command on a folder's lists and features."""
    given = [] if any(option.startswith("--method") for option in options) else ["--features", f"{folder}/plain"]
    return main([f"{folder}/{lists}", *given, *options])


def report(folder, *options):
    """Tables of the report, by title and row, and the report."""
    out = folder / "report"
    assert run(folder, *options, "--output", str(out), "--force") == 0
    held = json.loads((out / "report.json").read_text(encoding="utf-8"))
    tables = {table["title"]: {row["name"]: row["entries"] for row in table["rows"]} for table in held["tables"]}
    return tables, held


def twin_templates(made):
    """Unit templates under flip add, norm unit, detector ignored, as the defaults below; by template."""
    _, of, media, subject, (plain, mirrored) = made
    units = []
    for template in range(len(subject)):
        total = 0
        for one in set(media[of == template].tolist()):
            chosen = (of == template) & (media == one)
            x = plain[chosen].astype(float) + mirrored[chosen].astype(float)
            total = total + (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(axis=0)
        units.append(total / np.linalg.norm(total))
    return np.array(units), subject


def test_all_figures_equal_loops(made):
    folder = made[0]
    options = ("--mirrored", f"{folder}/mirrored", "--norm", "unit", "--detector", "ignore")
    units, subject = twin_templates(made)
    scores = units @ units.T
    one, other = np.triu_indices(len(units), 1)
    pairs, same = scores[one, other], subject[one] == subject[other]
    for rule in ("strict", "nearest"):
        tables, _ = report(folder, *options, "--far-rule", rule)
        entries = tables["1:1, %"]["made"]
        for entry, far in zip(entries, (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), strict=False):
            if rule == "strict":
                points = [(np.mean(pairs[~same] >= t), np.mean(pairs[same] >= t), t) for t in pairs]
                fits = [point for point in points if point[0] <= far]
                measurable = far * (~same).sum() >= 1
                assert entry["value"] == (pytest.approx(max(tar for _, tar, _ in fits)) if measurable else None)
                if measurable:
                    assert entry["threshold"] == pytest.approx(min(t for _, _, t in fits))
    both = {g: [i for i in range(12) if i % 2 == g] for g in (0, 1)}
    probes = np.arange(12, len(subject))
    rank = [int((scores[p, both[subject[p] % 2]] > scores[p, subject[p]]).sum()) for p in probes]
    home = subject[probes] % 2
    lines = tables["1:N, %"]
    for g, name in enumerate(("G1", "G2")):
        entries = lines[f"made, {name}"]
        mine = np.array(rank)[home == g]
        assert [e["value"] for e in entries[2:5]] == pytest.approx([np.mean(mine < k) for k in (1, 5, 10)])
        assert [e["value"] for e in entries[5:]] == [len(mine), len(probes) - len(mine), 6]
        best = scores[probes][:, both[g]].max(axis=1)
        strangers = best[home != g]
        fits = [t for t in best if np.mean(strangers >= t) <= 0.1]
        expected = max(np.mean((mine == 0) & (best[home == g] >= t)) for t in fits)
        assert entries[1]["value"] == pytest.approx(expected)
    values = [[lines[f"made, {name}"][i]["value"] for name in ("G1", "G2")] for i in range(5)]
    means = [None if None in pair else pytest.approx(np.mean(pair)) for pair in values]
    assert [e["value"] for e in lines["made, mean"][:5]] == means
    joint = [int((scores[p, :12] > scores[p, subject[p]]).sum()) for p in probes]
    entries = lines["made, G1 ∪ G2"]
    assert [e["value"] for e in entries[2:5]] == pytest.approx([np.mean(np.array(joint) < k) for k in (1, 5, 10)])
    others = sorted((scores[p, c] for p in probes for c in range(12) if c != subject[p]), reverse=True)
    own = scores[probes, subject[probes]]
    for entry, fpir in zip(entries, (0.01, 0.1), strict=False):
        threshold = others[int(np.ceil(len(probes) * fpir)) - 1]
        assert entry["value"] == np.mean(own > threshold)
        assert entry["threshold"] == pytest.approx(threshold)


def test_switches_change_the_figures_and_are_named(made):
    folder = made[0]
    seen = set()
    for flip, norm, detector in itertools.product(("add", "concat", "off"), ("weigh", "unit"), ("weigh", "ignore")):
        options = ("--mirrored", f"{folder}/mirrored", "--flip", flip, "--norm", norm, "--detector", detector)
        tables, held = report(folder, *options)
        seen.add(tables["1:1, %"]["made"][-1]["value"])
        assert [held["settings"][key] for key in ("flip", "norm", "detector")] == [flip, norm, detector]
    assert len(seen) == 12


def test_ijbb_and_methods_and_tasks(tmp_path):
    rng = np.random.default_rng(0)
    of, _, subject = write_lists(tmp_path / "lists", rng, name="ijbb")
    write_ijb_features(tmp_path, rng, of, subject)
    methods = [f"--method={name}={tmp_path}/{path}" for name, path in (("a", "plain"), ("b", "mirrored"))]
    tables, held = report(tmp_path, *methods, "--tasks", "1:N")
    assert list(tables) == ["1:N, %"]
    assert list(tables["1:N, %"])[3:5] == ["a, S1 ∪ S2", "b, S1"]
    assert held["kind"] == "ijbb"
    (tmp_path / "lists/ijbb_1N_probe_mixed.csv").unlink()
    assert list(report(tmp_path, *methods, "--tasks", "1:1")[0]) == ["1:1, %"]


def test_csv_and_page_hold_every_figure(made):
    folder = made[0]
    tables, held = report(folder, "--flip", "off")
    with (folder / "report/figures.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    told = [e["value"] for rows in tables.values() for row in rows.values() for e in row]
    assert [line["value"] for line in lines] == ["" if value is None else str(value) for value in told]
    with (folder / "report/curves.csv").open(encoding="utf-8") as file:
        points = [line for line in csv.DictReader(file) if line["curve"] == "DET"]
    det = next(curve for curve in held["curves"] if curve["shows"] == "DET")
    assert [float(point["y"]) for point in points] == det["y"]
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert f"{100 * tables['1:1, %']['made'][-1]['value']:.2f}" in page
    for line in held["conventions"]:
        assert line.split("'")[0] in page


def test_a_recogniser_without_errors_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    of, _, subject = write_lists(tmp_path / "lists", rng)
    write_ijb_features(tmp_path, rng, of, subject, spread=0.01)
    tables, _ = report(tmp_path)
    assert tables["1:1, %"]["made"][-2]["value"] == 0


def test_mistakes_are_answered_in_one_line(made, capsys, tmp_path):
    folder, rows = made[0], made[4][0]
    write_features(tmp_path / "short", rows[:-1], np.zeros(len(rows) - 1, int))
    for options, problem in (
        (("--flip", "add"), "needs features of the mirror images"),
        (("--seed", "-1"), "--seed -1"),
        (("--mirrored", f"{tmp_path}/short"), f"{tmp_path}/short: 299 rows of 16 numbers, expected 300"),
        (("--method", "a"), "--method 'a'"),
        (("--method=a=x", "--features", "y"), "give --features"),
        ((f"--method=a={folder}/plain", f"--method=a={folder}/plain"), "a name is used twice"),
    ):
        assert run(folder, *options, "--output", f"{tmp_path}/out") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert problem in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()
    assert run(folder, "--output", f"{folder}/lists", "--force") == 2
    assert "is not a report" in capsys.readouterr().err
