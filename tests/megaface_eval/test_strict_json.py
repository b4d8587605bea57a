"""JSON to the letter."""

import pytest

from megaface_eval.errors import InputError
from megaface_eval.strict_json import read_json


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
