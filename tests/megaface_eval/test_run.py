"""The command, from features on disk to a report, and every mistake it answers."""

import json
import re
from functools import partial

import numpy as np
import pytest
from small_sets import report_in

from megaface_eval import loading, run
from megaface_eval.features.feature_set import write_features
from megaface_eval.features.gallery import Gallery
from megaface_eval.features.simulate import make_scene
from megaface_eval.protocols import verification
from megaface_eval.report import plots
from megaface_eval.run import main
from megaface_eval.search import kept


def people(rng, identities, images, dimension=16, spread=0.5):
    """Rows and labels of so many people, so many images each."""
    labels = np.repeat(np.arange(identities), images)
    centres = rng.standard_normal((identities, dimension))
    rows = centres[labels] + spread * rng.standard_normal((len(labels), dimension)) * np.sqrt(dimension) / 4
    return rows.astype(np.float32), labels


@pytest.fixture(autouse=True)
def one_figure(monkeypatch):
    """Draw the CMC alone: the others take most of a small run's time, and test_report looks at them all."""
    monkeypatch.setattr(run, "draw", lambda report: {"cmc": plots.cmc_figure(report.methods, report.gallery.size)})


@pytest.fixture
def sets(tmp_path):
    """Probes of 8 people, 300 strangers, a second and worse method, and a training set near half of the people."""
    rng = np.random.default_rng(0)
    rows, labels = people(rng, 8, 5)
    names = [f"person{i}" for i in range(8)]
    distractors = rng.standard_normal((300, 16)).astype(np.float32)
    write_features(tmp_path / "p", rows, labels, names, meta={"method": "good"})
    write_features(tmp_path / "d", distractors, np.zeros(300, int))
    noise = rng.standard_normal(rows.shape).astype(np.float32)
    write_features(tmp_path / "p2", rows + noise, labels, names, meta={"method": "bad"})
    write_features(tmp_path / "d2", distractors, np.zeros(300, int))
    near = rows[:20] + 0.1 * rng.standard_normal((20, 16)).astype(np.float32)
    write_features(tmp_path / "train", np.concatenate([near, distractors[:50]]), np.zeros(70, int))
    (tmp_path / "groups.tsv").write_text("".join(f"person{i}\t{'male' if i % 2 else 'female'}\n" for i in range(8)))
    return tmp_path


def arguments_for(sets, *more, output="out"):
    """Arguments that evaluate the first method, and more."""
    methods = ["--probes", f"{sets}/p", "--distractors", f"{sets}/d"]
    return ["--gallery", "300", *methods, "--output", f"{sets}/{output}", *map(str, more)]


def assert_refused(capsys, arguments, *words):
    """The command answers these arguments with one line that holds the words, and exit status 2."""
    try:
        code = main([*map(str, arguments)])
    except SystemExit as leaving:
        code = leaving.code
    said = capsys.readouterr()
    assert code == 2
    lines = [line for line in said.err.splitlines() if not re.search(r"it/s|row/s", line)]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_the_table_printed_is_the_report_s(sets, capsys):
    arguments = arguments_for(sets, "--train", sets / "train", "--subgroups", sets / "groups.tsv")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    cells = report_in(sets / "out")["methods"][0]["cells"]
    assert list(cells) == ["many", "few", "one", "zero", "full", "group:Female", "group:Male"]
    for cell in cells.values():
        assert (f"{100 * cell['rate']:.2f}" if cell["rate"] is not None else "–") in printed
    assert {path.name for path in (sets / "out").iterdir()} >= {"report.html", "report.json", "table.md", "cmc.png"}


def test_subgroups_of_some_people_are_refused_or_said(sets, capsys):
    (sets / "some.tsv").write_text("person0\tmale\nperson1\tfemale\n")
    arguments = arguments_for(sets, "--subgroups", sets / "some.tsv")
    said = "some.tsv: 6 of 8 people are not in it (such as 'person2')"
    assert_refused(capsys, arguments, said, "--partial")
    assert not (sets / "out").exists()
    assert main([*arguments, "--partial"]) == 0
    assert f"{said} and are in no group" in capsys.readouterr().err
    assert any(said in line for line in report_in(sets / "out")["conventions"])


def test_an_empty_bucket_is_a_dash_with_n_0(sets, capsys):
    assert main(arguments_for(sets, "--train", sets / "d", "--similarity", "0.9999")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[2:5]] == ["–", "–", "–"]
    assert [cell.strip() for cell in lines[3].split("|")[2:5]] == ["n = 0", "n = 0", "n = 0"]
    assert "NaN" not in (sets / "out/report.json").read_text()


def test_methods_stand_side_by_side_with_the_best_marked(sets, capsys):
    arguments = ["--gallery", "300", "--method", f"good={sets}/p,{sets}/d", "--method", f"bad={sets}/p2,{sets}/d2",
                 "--train", f"{sets}/train", "--probes-recogniser", f"{sets}/p", "--output", f"{sets}/out"]  # fmt: skip
    assert main(arguments) == 0
    report = report_in(sets / "out")
    good, bad = (method["cells"]["full"]["rate"] for method in report["methods"])
    assert good > bad
    difference = next(d for d in report["differences"] if d["column"] == "Full")
    assert difference["difference"] == pytest.approx(bad - good)
    assert difference["low"] <= difference["difference"] <= difference["high"]
    table = (sets / "out/table.md").read_text()
    assert f"**{100 * good:.2f}**" in table
    assert f"**{100 * bad:.2f}**" not in table.split("95 %")[0]


def test_nested_sizes_come_in_one_report(sets, capsys):
    assert main(arguments_for(sets)) == 0
    sizes = report_in(sets / "out")["methods"][0]["sizes"]
    assert [row["gallery"] for row in sizes] == [10, 100, 300]
    assert [row["rate"] for row in sizes] == sorted((row["rate"] for row in sizes), reverse=True)


def test_json_goes_to_stdout_alone(sets, capsys):
    assert main(arguments_for(sets, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == report_in(sets / "out")


def test_an_existing_report_is_replaced_only_with_force(sets, capsys):
    assert main(arguments_for(sets)) == 0
    capsys.readouterr()
    assert_refused(capsys, arguments_for(sets), "exists", "--force")
    assert main(arguments_for(sets, "--force")) == 0
    (sets / "mine").mkdir()
    (sets / "mine/precious.txt").write_text("keep")
    assert_refused(capsys, arguments_for(sets, "--force", output="mine"), "is not a report")
    assert (sets / "mine/precious.txt").read_text() == "keep"


def test_simulate_needs_no_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "make_scene", partial(make_scene, dimension=64, images=640))
    assert main(["--simulate", "--gallery", "1K", "--mate-cosine", "0.2", "--output", f"{tmp_path}/out"]) == 0
    cells = report_in(tmp_path / "out")["methods"][0]["cells"]
    assert all(cells[key]["probes"] > 0 for key in ("many", "few", "one", "zero", "full", "group:Male", "group:Female"))


def test_simulated_difficulties_stand_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "make_scene", partial(make_scene, dimension=64, images=640))
    assert main(["--simulate", "--gallery", "1K", "--mate-cosine", "0.4", "0.5", "--output", f"{tmp_path}/out"]) == 0
    easy = [m["cells"]["full"]["rate"] for m in report_in(tmp_path / "out")["methods"]]
    assert easy[0] < easy[1]


def test_noise_is_dropped_and_told(sets, capsys):
    for name, rows in (("p", 40), ("d", 300)):
        (sets / name / "paths.txt").write_text("".join(f"a/b/{name}{i}.jpg\n" for i in range(rows)))
    (sets / "scrub.txt").write_text("# noise\np0.png\np7.png\nelsewhere.png\n")
    (sets / "flickr.txt").write_text("3\ta/b/d5\n4\ta/b/d250.jpg\n")
    lists = ["--facescrub-noise", f"{sets}/scrub.txt", "--megaface-noise", f"{sets}/flickr.txt"]
    assert main(arguments_for(sets, "--noise", "drop", *lists)) == 0
    report = report_in(sets / "out")
    assert report["probes"]["images"] == 38
    assert any("2 of 40 probes removed (noise list of 3)" in line for line in report["conventions"])
    assert any("2 of 300 distractors removed (noise list of 2)" in line for line in report["conventions"])
    assert report["methods"][0]["cells"]["full"]["trials"] == 6 * 20 + 2 * 12
    assert main(arguments_for(sets, "--noise", "insightface", *lists, output="replaced")) == 0
    replaced = report_in(sets / "replaced")
    assert replaced["probes"]["images"] == 40
    assert replaced["methods"][0]["cells"]["full"]["rate"] >= report["methods"][0]["cells"]["full"]["rate"]


def test_a_cohort_and_rejection_scores_are_reported(sets, capsys):
    known = np.load(sets / "p/labels.npy") % 2  # knows half of the people, as no real score does
    np.save(sets / "p/distance.npy", 1.0 - known)
    more = ["--cohort", f"{sets}/train", "--rejection", "norm", "--rejection=-distance.npy", "--open-set", "gallery"]
    assert main(arguments_for(sets, *more)) == 0
    report = report_in(sets / "out")
    method = report["methods"][0]
    assert list(method["open_set"]) == ["cosine", "norm", "-distance.npy"]
    assert method["cohort"].endswith("train")
    assert any(line.startswith("Cohort: scores less 0.5 ×") for line in report["conventions"])
    assert "by -distance.npy" in (sets / "out/table.md").read_text()


def test_errors_at_one_threshold_are_reported(sets, capsys):
    """By quality and by group: rates by hand, gaps judged with all others, a small group said and not compared."""
    half = np.load(sets / "p/labels.npy") < 4
    for name in ("p", "p2"):
        np.save(sets / name / "good.npy", half.astype(float))
    lines = "".join(f"person{i}\t{'odd' if i % 2 else 'even'}\t{'two' if i < 2 else 'six'}\n" for i in range(8))
    (sets / "two.tsv").write_text("identity\tparity\tsize\n" + lines)
    methods = [f"--method=a={sets}/p,{sets}/d", f"--method=b={sets}/p2,{sets}/d2"]
    wanted = ["--quality", "good.npy", "--quality=-good.npy", "--fairness", "--fmr", "0.05"]
    common = ["--gallery", "300", "--subgroups", f"{sets}/two.tsv", *wanted]
    assert main([*common, *methods, "--output", f"{sets}/out"]) == 0
    report = report_in(sets / "out")
    rows, labels = (np.load(sets / "p2" / f"{part}.npy") for part in ("features", "labels"))
    unit = rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    one, two = np.triu_indices(40, 1)
    score, same = (unit[one] * unit[two]).sum(axis=1), labels[one] == labels[two]
    refused = np.sort(score[~same])[::-1][35]  # 5 % of 700 pairs are above it
    second = report["methods"][1]
    assert second["fairness"]["refused"] == pytest.approx(refused, abs=1e-6)
    for group in second["fairness"]["groups"]:
        of = {"Odd": labels % 2 == 1, "Even": labels % 2 == 0, "Two": labels < 2, "Six": labels >= 2}[group["group"]]
        mine = of[one] & of[two]
        assert group["false_match"]["rate"] == pytest.approx((score[mine & ~same] > refused + 1e-6).mean(), abs=1e-9)
        missed = (score[mine & same] <= refused + 1e-6).mean()
        assert group["false_non_match"]["rate"] == pytest.approx(missed, abs=1e-9)
        assert group["false_match"]["pairs"] == (mine & ~same).sum()
    # 4 and 4, 2 and 6 people: too few for any gap at all
    assert [gap["of"] for gap in report["gaps"]] == ["rank-1"] * 4
    told = "Not compared, for too few identities (b): Even (4), Odd (4), Two (2)."
    assert told in report["conventions"]
    assert any("one threshold, at FMR 0.05 over all non-mated pairs" in line for line in report["conventions"])
    kept = second["quality"]["good.npy"]["rank1"]
    trials = second["cells"]["full"]["trials"]
    assert [at["trials"] for at in kept["at"]] == [trials] * 4  # half of the images go together, at 50 % and not before
    assert kept["curve"]["share"][-1] == 0.95
    good = half[one] & half[two] & same
    missed = (score[good] <= refused + 1e-6).mean()
    assert second["quality"]["good.npy"]["false_non_match"]["curve"]["error"][100] == pytest.approx(missed)
    assert "good.npy: FNMR at 0.05" in (sets / "out/table.md").read_text()


def test_gaps_of_errors_hold_among_all_and_are_the_same_when_compared(sets, capsys):
    rng = np.random.default_rng(0)
    rows, labels = people(rng, 48, 4)
    rows[labels >= 24] += 0.9 * rng.standard_normal((96, 16)).astype(np.float32)  # half of the people are harder
    for name in ("q", "q2"):
        write_features(sets / name, rows, labels, [f"n{i}" for i in range(48)], meta={"method": name})
    (sets / "halves.tsv").write_text("".join(f"n{i}\t{'easy' if i < 24 else 'hard'}\n" for i in range(48)))
    common = ["--gallery", "300", "--subgroups", f"{sets}/halves.tsv", "--fairness", "--fmr", "0.01"]
    methods = [f"--method={name}={sets}/{name},{sets}/d" for name in ("q", "q2")]
    assert main([*common, *methods, "--output", f"{sets}/both"]) == 0
    for name, fmr in (("q", "0.01"), ("q2", "0.01"), ("q2", "0.02")):
        alone = [*common[:-1], fmr, f"--method={name}={sets}/{name},{sets}/d", "--output", f"{sets}/{name}-{fmr}"]
        assert main(alone) == 0
    assert main(["--compare", f"{sets}/q-0.01", f"{sets}/q2-0.01", "--output", f"{sets}/beside"]) == 0
    both, beside = report_in(sets / "both"), report_in(sets / "beside")
    assert [gap["of"] for gap in both["gaps"]] == ["rank-1"] * 2 + ["false non-match", "false match"] * 2
    assert beside["gaps"] == both["gaps"]
    assert beside["statements"] == both["statements"]
    missed = both["gaps"][2]
    easy, hard = (group["false_non_match"]["rate"] for group in both["methods"][0]["fairness"]["groups"])
    assert missed["difference"] == pytest.approx(easy - hard)
    assert (missed["shown"], missed["high"] < 0) == (True, True)
    assert any(line.startswith("q: false non-match, Easy against Hard -") for line in both["statements"])
    capsys.readouterr()
    assert_refused(
        capsys, ["--compare", sets / "q-0.01", sets / "q2-0.02", "--output", sets / "no"], "at different --fmr"
    )


def test_saved_counts_need_no_second_search_for_other_bounds(sets, capsys):
    assert main(arguments_for(sets, "--train", f"{sets}/train")) == 0
    assert main(arguments_for(sets, "--train", f"{sets}/train", "--shots", "3,2,1", output="other")) == 0
    with np.load(sets / "out/pseudo_shots.npz") as saved:
        similar = saved["similar"]
    cells = report_in(sets / "other")["methods"][0]["cells"]
    assert [cells[key]["probes"] for key in ("many", "few", "one", "zero")] == [
        (similar >= 3).sum(), (similar == 2).sum(), (similar == 1).sum(), (similar == 0).sum(),
    ]  # fmt: skip
    histogram = report_in(sets / "out")["pseudo_shots"]
    assert dict(zip(histogram["similar"], histogram["probes"], strict=True)) == {
        value: (similar == value).sum() for value in np.unique(similar)
    }


@pytest.mark.parametrize(
    "search", ["auto", "product", "certified-prefix", "certified", "certified-bfloat16", "certified-int8"]
)
def test_every_search_gives_one_report(sets, capsys, search):
    pytest.importorskip("torch")
    for name in ("faiss", search):
        assert main(arguments_for(sets, "--search", name, "--train", f"{sets}/train", output=name)) == 0
    one, other = (report_in(sets / name) for name in ("faiss", search))
    assert one["methods"] == other["methods"]
    assert one["pseudo_shots"] == other["pseudo_shots"]


def test_the_report_says_which_probes_verification_compared(sets, capsys, monkeypatch):
    labels = np.load(sets / "p/labels.npy")
    most = len(labels) // 2
    monkeypatch.setattr(verification, "MOST_PROBES", most)
    assert main(arguments_for(sets, "--seed", "5", "--devkit-results", output="sampled")) == 0
    report = report_in(sets / "sampled")
    figures = report["methods"][0]["verification"]
    kept = verification.whole_identities(labels, most, 5)
    names = (sets / "p/names.txt").read_text().splitlines()
    sample = figures["sample"]
    assert sample == {"images": len(kept), "of": len(labels), "seed": 5,
                      "identities": [names[label] for label in np.unique(labels[kept])]}  # fmt: skip
    assert figures["mated_pairs"] + figures["nonmated_pairs"] == len(kept) * (len(kept) - 1) // 2
    told = [line for line in report["conventions"] if line.startswith("Verification:")]
    assert f"a sample, {len(kept)} of {len(labels)} probes" in told[0]
    assert "drawn with seed 5" in told[0]
    for name in sample["identities"][:8]:
        assert name in told[0]
    monkeypatch.setattr(verification, "MOST_PROBES", 1)
    assert main(arguments_for(sets, "--devkit-results", output="none")) == 0
    report = report_in(sets / "none")
    assert report["methods"][0]["verification"] is None
    assert any(line.startswith("Verification: not measured") for line in report["conventions"])
    assert "not measured" in (sets / "none/report.html").read_text()


def test_a_report_goes_to_the_working_folder_unless_told_otherwise(sets, capsys, monkeypatch):
    monkeypatch.chdir(sets)
    arguments = ["--gallery", "300", "--probes", "p", "--distractors", "d"]
    assert main(arguments) == 0
    made = (sets / "report/report.json").read_bytes()
    capsys.readouterr()
    assert_refused(capsys, arguments, "report exists", "--force")
    assert (sets / "report/report.json").read_bytes() == made
    assert_refused(capsys, ["--gallery", "1M"], "--probes with --distractors", "--simulate, which needs no data")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--gallery", "1M"], ["300 distractors, fewer than the gallery of 1000000"]),
        (["--gallery", "many"], ["'many'", "expected a number"]),
        (["--shots", "1,2,3"], ["three falling numbers"]),
        (["--similarity-quantile", "2"], ["between 0 and 1"]),
        (["--probes-recogniser", "x"], ["without --train"]),
        (["--simulate"], ["give one of"]),
        (["--noise", "drop"], ["belong together"]),
        (["--similarity", "0.5"], ["without --train"]),
        (["--probe-images", "."], ["paths.txt"]),
        (["--enrol", "0"], ["at least one image"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--cohort-weight", "inf"], ["--cohort-weight inf"]),
        (["--gallery", "9" * 400], ["expected a number"]),
        (["--similarity", "nan", "--train", "x"], ["--similarity nan", "from -1"]),
        (["--probe-images", "no_such_folder"], ["no such folder"]),
        (["--subgroups", "\udcff.tsv"], ["not UTF-8"]),
        (["--output", "x" * 300], ["cannot be written"]),
        (["--rejection", "none.npy"], ["none.npy", "one number a row"]),
        (["--rejection", "labels.npy", "--cohort", "nowhere"], ["nowhere", "no such feature set"]),
        (["--quality", "none.npy"], ["none.npy", "one number a row"]),
        (["--quality", "features.npy"], ["features.npy", "expected 40 finite numbers"]),
        (["--quality", "norm", "--fmr", "0"], ["--fmr 0", "between 0 and 1"]),
        (["--quality", "norm", "--fmr", "nan"], ["--fmr nan", "between 0 and 1"]),
        (["--quality", "norm", "--fmr", "1e-5"], ["700 pairs of two people's probes", "at least 100000"]),
        (["--fmr", "0.1"], ["--fmr without --quality or --fairness"]),
        (["--fairness"], ["--fairness without --subgroups"]),
        (["--compare", "x"], ["give one of"]),
        (["--train", "nowhere"], ["nowhere", "no such feature set"]),
        (["--subgroups", "nowhere.tsv"], ["nowhere.tsv"]),
        (["--partial"], ["--partial without --subgroups"]),
        (["--protocol", "mine"], ["invalid choice"]),
        (["--unknown"], ["unrecognized"]),
    ],
)
def test_mistakes_in_the_command_are_answered_in_one_line(sets, capsys, more, words):
    assert_refused(capsys, arguments_for(sets, *more), *words)
    assert not [path for path in sets.iterdir() if path.name.startswith((".out", "out"))]


def test_a_report_that_cannot_be_written_leaves_nothing(sets, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "to_png", full)
    assert_refused(capsys, arguments_for(sets), "cannot be written", "No space left")
    assert not [path for path in sets.iterdir() if "out" in path.name]


def test_an_interrupted_run_leaves_nothing(sets, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "print_result", lambda *_: None)
    monkeypatch.setattr(plots, "to_png", interrupt)
    assert main(arguments_for(sets)) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; nothing was written"
    assert not [path for path in sets.iterdir() if "out" in path.name]


def test_options_that_would_do_nothing_are_refused(sets, capsys):
    assert_refused(
        capsys, ["--simulate", "--train", "x", "--output", sets / "out"], "--train has no part in --simulate"
    )
    assert_refused(
        capsys, ["--compare", "x", "--subgroups", "y", "--output", sets / "out"], "--subgroups has no part in --compare"
    )
    for option in (["--quality", "norm"], ["--fairness"]):
        arguments = ["--compare", "x", *option, "--output", sets / "out"]
        assert_refused(capsys, arguments, f"{option[0]} has no part in --compare")


def test_feature_sets_that_do_not_fit_are_answered_in_one_line(sets, capsys):
    rng = np.random.default_rng(0)
    write_features(sets / "short", rng.standard_normal((300, 8)).astype(np.float32), np.zeros(300, int))
    assert_refused(capsys, arguments_for(sets, "--distractors", sets / "short"), "16 dimensions", "8")
    broken = rng.standard_normal((300, 16)).astype(np.float32)
    broken[77] = np.nan
    write_features(sets / "nan", broken, np.zeros(300, int))
    assert_refused(capsys, arguments_for(sets, "--distractors", sets / "nan"), "row 77", "NaN")
    assert_refused(capsys, arguments_for(sets, "--probes", sets / "none"), "none", "no such feature set")
    write_features(sets / "few", rng.standard_normal((30, 16)).astype(np.float32), np.arange(30) // 2)
    assert_refused(
        capsys,
        arguments_for(sets, "--train", sets / "train", "--probes-recogniser", sets / "few"),
        "labels do not match",
    )
    assert_refused(capsys, ["--gallery", 300, "--method", f"a={sets}/p,{sets}/d", "--method", f"b={sets}/few,{sets}/d",
                     "--output", sets / "out"], "do not match those of")  # fmt: skip
    assert_refused(capsys, ["--method", "a=only", "--output", sets / "out"], "NAME=PROBES,DISTRACTORS")
    write_features(sets / "lone", rng.standard_normal((30, 16)).astype(np.float32), np.arange(30))
    assert_refused(capsys, arguments_for(sets, "--probes", sets / "lone"), "no identity has two")
    assert not (sets / "out").exists()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_report(sets, capsys, monkeypatch):
    more = ["--train", sets / "train", "--order", "seeded"]
    assert main(arguments_for(sets, *more, output="whole")) == 0
    monkeypatch.setattr(kept, "SECONDS", 0)
    inner, left = Gallery.blocks, [3]

    def broken(self, spans):
        for block in inner(self, spans):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            yield block

    monkeypatch.setattr(Gallery, "blocks", broken)
    capsys.readouterr()
    assert main(arguments_for(sets, *more, "--resume")) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"interrupted; {sets}/out.search keeps what was searched: give --resume to go on"
    assert not (sets / "out").exists()
    left[0] = -1
    write_features(sets / "other", np.random.default_rng(3).standard_normal((300, 16)), np.zeros(300, int))
    changed = ["--gallery", "300", "--probes", sets / "p", "--distractors", sets / "other", "--output", sets / "out"]
    assert_refused(capsys, [*changed, *more, "--resume"], "other distractors", "out.search to begin anew")
    assert main(arguments_for(sets, *more, "--resume")) == 0
    assert not (sets / "out.search").exists()
    one, other = (report_in(sets / name) for name in ("whole", "out"))
    for report in (one, other):
        for key in ("created", "made", "command"):
            report.pop(key, None)
        report["settings"].pop("output")
    assert one == other


def test_nothing_is_kept_unless_asked_for(sets, monkeypatch):
    monkeypatch.setattr(kept, "SECONDS", 0)
    assert main(arguments_for(sets)) == 0
    assert not (sets / "out.search").exists()


def test_resume_has_no_part_in_compare(sets, capsys):
    assert_refused(capsys, ["--compare", sets / "a", "--resume"], "--resume has no part in --compare")
