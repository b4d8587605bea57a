"""Both dialects of .lst files."""

from pathlib import Path

import pytest

from recordio_tools.format.listing import format_list, read_list
from recordio_tools.format.recordio import RecordError


def read(tmp_path, text: str):
    (tmp_path / "x.lst").write_text(text)
    return [(picture.path.relative_to(tmp_path).as_posix(), picture.label) for picture in read_list(tmp_path / "x.lst")]


def test_im2rec(tmp_path):
    text = "0\t3.000000\ta/1.jpg\r\n7\t0\tb c.png\n9\t2\t0.5\t-1e3\td.jpg"
    assert read(tmp_path, text) == [("a/1.jpg", 3), ("b c.png", 0), ("d.jpg", [2.0, 0.5, -1000.0])]


def test_face2rec2(tmp_path):
    numbers = list(range(10))
    text = "1\ta.jpg\t4\n0\tb.jpg\t5\t1\t2\t3\t4\n0\tc.jpg\t6\t1\t2\t3\t4\t" + "\t".join(map(str, numbers)) + "\n"
    assert read(tmp_path, text) == [
        ("a.jpg", [4, 1]),
        ("b.jpg", [5, 0, 1, 2, 3, 4]),
        ("c.jpg", [6, 0, 1, 2, 3, 4, *numbers]),
    ]


def test_paths_begin_at_the_root(tmp_path):
    (tmp_path / "x.lst").write_text("0\t1\ta.jpg\n1\t1\t/b.jpg\n")
    assert [picture.path for picture in read_list(tmp_path / "x.lst", Path("/data"))] == [
        Path("/data/a.jpg"),
        Path("/b.jpg"),
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the list is empty"),
        ("0\ta.jpg\n", "line 1 is"),
        ("0\t1\ta.jpg\nx\t1\tb.jpg\n", "line 2 is"),
        ("0\t1.5\ta.jpg\n", "a label that is a whole number"),
        ("0\t-1\ta.jpg\n", "a label that is a whole number"),
        ("1\ta.jpg\tfour\n", "aligned<TAB>path<TAB>label"),
        ("1\ta.jpg\t4\t1\t2\n", "then a box of 4"),
        ("1\ta.jpg\t4\n0\t1\tb.jpg\n", "line 2 is"),
        ("0\tnan\ta.jpg\n", "aligned<TAB>path"),
        ("\xff\xfe\x00", "line 1 is"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, text, words):
    with pytest.raises(RecordError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_format(tmp_path):
    entries = [(5, [16777215.0], "a/5.jpg"), (6, [1.0, 0.1], "b/6.jpg")]
    assert format_list(entries) == "5\t16777215\ta/5.jpg\n6\t1\t0.1\tb/6.jpg\n"
    assert read(tmp_path, format_list(entries)) == [("a/5.jpg", 16777215), ("b/6.jpg", [1.0, 0.1])]
