"""Both dialects of .lst files, and the lists of benchmarks."""

from pathlib import Path

import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.format.listing import format_list, read_image_list, read_list
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


@pytest.mark.parametrize("form", sets.PUBLISHED)
def test_published_lists(tmp_path, form):
    lines = sets.published(form)
    assert len(lines) == 20
    (tmp_path / "lt.txt").write_text("".join(f"{path} {label}\n" for path, label in lines))
    listed = read_image_list(tmp_path / "lt.txt")
    assert (listed.file, listed.by_key) == (tmp_path / "lt.txt", False)
    assert listed.images == [path.removeprefix("/") for path, _ in lines]
    assert listed.labels.tolist() == [label for _, label in lines]


part = st.text(st.characters(categories=["L", "N", "Pd"]) | st.just(" "), min_size=1).map(str.strip).filter(bool)
paths = st.lists(part, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".jpg")


@given(
    lines=st.lists(st.tuples(paths, st.integers(-1, 10**9 - 1)), min_size=1, unique_by=lambda line: line[0]),
    labelled=st.booleans(),
    front=st.sampled_from(["", "/", "./", "//"]),
    space=st.sampled_from([" ", "\t", "  "]),
    end=st.sampled_from(["\n", "\r\n", " \n"]),
)
def test_any_paths_and_labels(tmp_path_factory, lines, labelled, front, space, end):
    text = "".join(f"{front}{path}{space}{label}{end}" if labelled else f"{front}{path}{end}" for path, label in lines)
    file = tmp_path_factory.mktemp("lists") / "lt.txt"
    file.write_bytes(text.encode())
    listed = read_image_list(file)
    assert (listed.by_key, listed.images) == (False, [path for path, _ in lines])
    assert (listed.labels.tolist() if labelled else listed.labels) == ([n for _, n in lines] if labelled else None)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_list_or_refused_in_one_line(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("lists") / "lt.txt"
    file.write_bytes(content)
    try:
        answer = " ".join(read_image_list(file).images) or "nothing\n"
    except RecordError as error:
        answer = str(error)
    assert "\n" not in answer


@pytest.mark.parametrize("text", ["0\t1\ta.jpg\n", "1\ta.jpg\t4\n", "a.jpg,0\n", "a/b c\n", "a.jpg 1.5\n"])
def test_lists_of_other_kinds_are_refused(tmp_path, text):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(RecordError, match=r"line 1 is .*, expected an image's path or record key, and a label"):
        read_image_list(tmp_path / "x.txt")
