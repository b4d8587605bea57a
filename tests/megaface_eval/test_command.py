"""Mistakes in one line, outputs whole or not there, JSON to the letter."""

import os

import pytest

from megaface_eval.command import INTERRUPTED, Parser, answer, check_writable, new_folder, read_json
from megaface_eval.errors import InputError


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error, code, said",
    [
        (InputError("two\nlines of \udcff"), 2, "error: two lines of \\udcff\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; nothing was written\n"),
    ],
)
def test_an_end_before_the_end_is_told_in_one_line(capsys, error, code, said):
    assert answer(raising(error)) == code
    assert capsys.readouterr().err == said
    assert answer(raising(error), silent=True) == code
    assert capsys.readouterr().err == ""


def test_a_fault_of_ours_keeps_its_traceback():
    assert answer(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        answer(raising(ZeroDivisionError()))


def test_the_parser_answers_in_one_line(capsys):
    with pytest.raises(SystemExit) as leaving:
        Parser().parse_args(["--no\nsuch"])
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --no such; see --help\n"


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    old = tmp_path / "made"
    old.mkdir()
    (old / "stale").write_text("x")
    with new_folder(old) as folder:
        (folder / "fresh").write_text("y")
        assert (old / "stale").read_text() == "x"
    assert [path.name for path in old.iterdir()] == ["fresh"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert old.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "error, seen",
    [
        (OSError(28, "No space left on device"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (KeyError(), KeyError),
    ],
)
def test_a_new_folder_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, error, seen):
    old = tmp_path / "made"
    old.mkdir()
    (old / "kept").write_text("x")

    def half():
        with new_folder(old) as folder:
            (folder / "half").write_text("y")
            raise error

    with pytest.raises(seen):
        half()
    assert (old / "kept").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("name", ["x" * 300, "no/such/place"])
def test_places_that_cannot_be_written_are_refused_before_and_after_the_work(tmp_path, name):
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / name)
    with pytest.raises(InputError, match="cannot be written"), new_folder(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN has no place"),
        (b"[-Infinity]", "-Infinity has no place"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b"[" * 100_000 + b"]" * 100_000, "recursion"),
        (b"\xff\xfe", "codec"),
        (None, "No such file"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path, content, problem):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as refusal:
        read_json(path)
    assert len(str(refusal.value)) < 400


def test_json_is_read(tmp_path):
    (tmp_path / "file.json").write_text('{"a": ["é", 1.5, null, "\\u00e9"]}', encoding="utf-8")
    assert read_json(tmp_path / "file.json") == {"a": ["é", 1.5, None, "é"]}
