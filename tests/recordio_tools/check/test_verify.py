"""Sets with known faults: each is found, with key and offset; a clean set has none."""

import struct

import numpy as np
import pytest
import sets

from recordio_tools.check.verify import describe_faults, verify
from recordio_tools.format.recordio import RecordError

LABELS = [0, 0, 0, 1, 1, 3, 3]


@pytest.fixture
def folder(tmp_path):
    return sets.write(tmp_path / "set", sets.insightface(LABELS), "4,8,8\n", list("abcd"))


def faults(folder, **options) -> list[tuple]:
    return [fault[:3] for fault in verify(folder, **options).faults]


def offsets_of(folder) -> dict[int, int]:
    return {
        int(key): int(at) for key, at in (line.split("\t") for line in (folder / "train.idx").read_text().splitlines())
    }


def patch(folder, offset: int, content: bytes) -> None:
    rec = bytearray((folder / "train.rec").read_bytes())
    rec[offset : offset + len(content)] = content
    (folder / "train.rec").write_bytes(rec)


def edit_index(folder, edit) -> None:
    lines = (folder / "train.idx").read_text().splitlines()
    (folder / "train.idx").write_text("".join(f"{line}\n" for line in edit(lines)))


@pytest.mark.parametrize("place", ["first", "middle", "last", "none"])
@pytest.mark.parametrize("vector", [False, True])
def test_clean_sets_have_no_fault(tmp_path, place, vector):
    records = sets.insightface(LABELS, place=place, vector=vector)
    folder = sets.write(tmp_path, records, "4,8,8")
    survey = verify(folder, decode=True)
    assert survey.faults == survey.left_out == []
    assert survey.images.keys.tolist() == list(range(1, 8))
    assert "no fault; 7 whole images; 0 bytes" in describe_faults(survey)


def test_shuffled_sets_have_no_fault(tmp_path):
    records = sets.insightface(LABELS)
    np.random.default_rng(0).shuffle(records)
    assert faults(sets.write(tmp_path, records, "4,8,8"), decode=True) == []


def test_nothing_to_survey(tmp_path):
    with pytest.raises(RecordError, match="no such folder"):
        verify(tmp_path / "none")


def test_damaged_bytes(folder):
    at = offsets_of(folder)
    patch(folder, at[3], b"\0\0\0\0")
    patch(folder, at[6] + 4, struct.pack("<I", 2**29 - 1))
    assert ("magic", 3, at[3]) in faults(folder)
    assert ("length", 6, at[6]) in faults(folder)
    assert verify(folder).images.keys.tolist() == [1, 2, 4, 5, 7]


def test_truncated_file(folder):
    rec = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(rec[:-20])
    at = offsets_of(folder)
    assert ("truncated", 11, at[11]) in faults(folder)


def test_padding(tmp_path):
    folder = sets.write(tmp_path, [(1, sets.payload(0, b"abcde")), (2, sets.payload(0, b"abcd"))], "1,8,8")
    patch(folder, 8 + 24 + 5, b"\0\1\0")
    assert faults(folder) == [("padding", 1, 0)]
    rec = (folder / "train.rec").read_bytes()
    records = sets.write(tmp_path, [(1, sets.payload(0, b"abcd")), (2, sets.payload(0, b"abcde"))], "1,8,8")
    (records / "train.rec").write_bytes(rec[40:] + rec[:38])
    assert faults(folder) == [("padding", 2, 36)]


def test_index_in_both_directions(folder):
    at = offsets_of(folder)
    edit_index(
        folder, lambda lines: [*lines[:2], *lines[3:], f"5\t{at[6]}", f"90\t{at[4]}", "91\t-4", "92\t999999", "93\t44"]
    )
    found = verify(folder).faults
    assert {(fault.kind, fault.key, fault.offset) for fault in found if fault.kind == "index"} == {
        ("index", None, at[2]),  # whole, and not named
        ("index", 2, None),  # missing, by the header
        ("index", 5, at[6]),  # twice
        ("index", 90, at[4]),  # a second key of one record
        ("index", 91, -4),
        ("index", 92, 999999),
        ("index", 93, 44),
    }


@pytest.mark.parametrize("content", [None, b"", b"nonsense\n", b"\xff\xfe\n"])
def test_without_a_readable_index_all_records_are_found(folder, content):
    if content is None:
        (folder / "train.idx").unlink()
    else:
        (folder / "train.idx").write_bytes(content)
    survey = verify(folder)
    assert len(survey.images) == 7
    assert survey.faults[0].kind == "index"


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 1e30, -1.0, 4.0, 1.5])
def test_labels(folder, label):
    at = offsets_of(folder)
    patch(folder, at[4] + 12, struct.pack("<f", label))
    survey = verify(folder)
    assert ("label", 4, at[4]) in [fault[:3] for fault in survey.faults]
    assert survey.images.keys.tolist() == [1, 2, 3, 5, 6, 7]
    assert survey.left_out == [(at[4], at[5], "record")]


def test_headers_and_empty_images(tmp_path):
    records = [
        (1, sets.payload(0, b"jpeg")),
        (2, b"short"),
        (3, struct.pack("<IfQQ", 9, 0, 0, 0)),
        (4, sets.payload(0, b"")),
    ]
    folder = sets.write(tmp_path, records, "1,8,8")
    at = offsets_of(folder)
    assert faults(folder) == [("header", 2, at[2]), ("header", 3, at[3]), ("empty", 4, at[4])]


def test_key_ranges(folder):
    at = offsets_of(folder)
    patch(folder, at[9] + 32, struct.pack("<ff", 4, 7))  # identity 1 has images 4 and 5
    patch(folder, at[0] + 32, struct.pack("<ff", 8, 13))
    assert {(fault.kind, fault.key, fault.problem.split(",")[0]) for fault in verify(folder).faults} == {
        ("range", 0, "the header's labels are (8"),
        ("index", 12, "key 12 is missing"),
        ("range", 9, "its key range [4"),
    }


def test_many_faults_that_are_alike_are_counted(tmp_path):
    records = [(key, sets.payload(9, b"jpeg")) for key in range(30)]
    lines = describe_faults(verify(sets.write(tmp_path, records, "1,8,8")), most=3).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [[str(36 * key), str(key), "label"] for key in range(3)]
    assert "label      27 more like: label 9" in lines[4]
    assert len(lines) == 6
    assert lines[-1] == "30 faults (--json lists all); 0 whole images; 1,080 bytes belong to none"


def test_identity_whose_images_are_scattered(tmp_path):
    records = sets.insightface([0, 0, 1, 1])
    records[2] = (2, sets.payload(1, sets.jpeg(14), 2))
    assert [fault[:2] for fault in verify(sets.write(tmp_path, records, "2,8,8")).faults] == [
        ("range", 5),
        ("range", 6),
    ]


def test_a_header_of_zeros_claims_nothing(folder):
    patch(folder, offsets_of(folder)[0] + 32, bytes(8))
    assert faults(folder) == []


def test_images_that_do_not_decode_or_are_of_another_size(tmp_path):
    records = [
        (1, sets.payload(0, sets.jpeg(1))),
        (2, sets.payload(0, b"no jpeg")),
        (3, sets.payload(0, sets.jpeg(1)[:-200])),
        (4, sets.payload(0, sets.jpeg(1, (9, 8)))),
    ]
    folder = sets.write(tmp_path, records, "1,8,8")
    assert faults(folder) == []
    survey = verify(folder, decode=True)
    assert [(fault.kind, fault.key) for fault in survey.faults] == [("image", 2), ("image", 3), ("size", 4)]
    assert survey.faults[2].problem == "is 9x8, property states 8x8"
    assert survey.images.keys.tolist() == [1, 4]


def test_many_images_are_decoded_in_other_processes(tmp_path):
    records = [(key, sets.payload(0, b"no jpeg" if key in (3, 1100) else sets.jpeg(key % 256))) for key in range(1200)]
    survey = verify(sets.write(tmp_path, records, "1,8,8"), decode=True)
    assert [(fault.kind, fault.key) for fault in survey.faults] == [("image", 3), ("image", 1100)]


@pytest.mark.parametrize("name, content", [("property", "words"), ("names.txt", "a\nb\n")])
def test_property_and_names(folder, name, content):
    (folder / name).write_text(content)
    assert [fault[0] for fault in verify(folder).faults] == [name.split(".")[0]]


def test_records_that_another_writer_did_not_cut(tmp_path):
    body = sets.payload(0, b"abcd" + sets.MAGIC + b"efgh")
    folder = sets.write(tmp_path, [(1, sets.payload(0, b"jpeg"))], "1,8,8")
    rec = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(rec + sets.MAGIC + struct.pack("<I", len(body)) + body)
    (folder / "train.idx").write_text(f"1\t0\n2\t{len(rec)}\n")
    survey = verify(folder)
    assert [fault[:3] for fault in survey.faults] == [("magic", 2, len(rec))]
    assert survey.images.jpeg(1).tobytes() == b"abcd" + sets.MAGIC + b"efgh"
