"""Outputs whole or not there, with mistakes in one line; JSON to the letter."""

import pytest

from megaface_eval.errors import InputError
from megaface_eval.files import check_writable, output_folder, read_json


@pytest.mark.parametrize(
    "error, seen",
    [
        (OSError(28, "No space left on device"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (KeyError(), KeyError),
    ],
)
def test_an_output_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, error, seen):
    old = tmp_path / "made"
    old.mkdir()
    (old / "kept").write_text("x")

    def half():
        with output_folder(old, force=True) as folder:
            (folder / "half").write_text("y")
            raise error

    with pytest.raises(seen):
        half()
    assert (old / "kept").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("name", ["x" * 230, "x" * 300, "no/such/place"])
def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path, name):
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("old", "new"):
        check_writable(tmp_path / name, replace=True)
    with pytest.raises(InputError, match="exists; choose another place"):
        check_writable(tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


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
