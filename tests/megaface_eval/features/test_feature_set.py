"""Feature sets: what is written is read, and what cannot be right is refused in one line."""

import io
import json
import zipfile

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import ArrayRows, FeatureSet, FileRows, load_features, normalise, write_features


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)


def refuse(path, *words):
    with pytest.raises(InputError) as caught:
        load_features(path).unit(0, 1)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_a_folder_reads_back(tmp_path, rows):
    labels = np.arange(50) // 5
    write_features(
        tmp_path, rows, labels, [f"p{i}" for i in range(10)], [f"{i}.jpg" for i in range(50)], {"method": "m"}
    )
    features = load_features(tmp_path)
    np.testing.assert_array_equal(features.stored.read(7, 19), rows[7:19])
    np.testing.assert_array_equal(features.stored.take(np.array([3, 49, 3])), rows[[3, 49, 3]])
    np.testing.assert_array_equal(features.labels, labels)
    assert (features.names[9], features.paths[49], features.meta) == ("p9", "49.jpg", {"method": "m"})
    assert (len(features), features.dimension) == (50, 8)


def test_unit_rows_have_length_one_and_the_direction_of_what_is_stored(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(50, int))
    unit = load_features(tmp_path).unit(10, 20).astype(np.float64)
    expected = rows[10:20] / np.linalg.norm(rows[10:20].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=2e-7)


def test_a_unit_row_does_not_depend_on_its_neighbours(rows):
    whole = normalise(rows.copy())
    for i in range(50):
        np.testing.assert_array_equal(normalise(rows[i : i + 1].copy())[0], whole[i])


def test_reading_leaves_rows_in_memory_as_they_were(rows):
    features = FeatureSet(ArrayRows(rows), np.zeros(50, int))
    before = rows.copy()
    features.unit(0, 50)
    features.unit_take(np.arange(50))
    np.testing.assert_array_equal(rows, before)


def test_float16_and_float64_are_read(tmp_path, rows):
    for dtype in (np.float16, np.float64):
        write_features(tmp_path, rows.astype(dtype), np.zeros(50, int))
        np.testing.assert_array_equal(
            load_features(tmp_path).stored.read(5, 9), rows[5:9].astype(dtype).astype(np.float32)
        )


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path, rows):
    upper = (rows.view(np.uint32) >> 16).astype(np.uint16)
    expected = (rows.view(np.uint32) & 0xFFFF0000).view(np.float32)
    write_features(tmp_path / "word", upper, np.zeros(50, int), meta={"dtype": "bfloat16"})
    write_features(tmp_path / "void", upper.view("V2"), np.zeros(50, int))
    for name in ("word", "void"):
        features = load_features(tmp_path / name)
        np.testing.assert_array_equal(features.stored.read(3, 8), expected[3:8])
        np.testing.assert_array_equal(features.stored.take(np.array([8, 2])), expected[[8, 2]])


def test_one_npz_reads_as_the_folder_does(tmp_path, rows):
    np.savez(tmp_path / "set.npz", features=rows, labels=np.arange(50), names=np.array([f"p{i}" for i in range(50)]))
    features = load_features(tmp_path / "set.npz")
    np.testing.assert_array_equal(features.stored.read(0, 50), rows)
    assert features.name_of(3) == "p3"


def test_a_missing_folder_is_refused(tmp_path):
    refuse(tmp_path / "nowhere", "no such feature set")


@pytest.mark.parametrize("missing", ["features.npy", "labels.npy"])
def test_a_missing_file_is_refused(tmp_path, rows, missing):
    write_features(tmp_path, rows, np.zeros(50, int))
    (tmp_path / missing).unlink()
    refuse(tmp_path, missing, "is missing")


@pytest.mark.parametrize(
    "value, problem", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "beyond its format's range")]
)
def test_a_row_that_is_no_direction_is_refused_by_number(tmp_path, rows, value, problem):
    rows[7, 3] = value
    write_features(tmp_path, rows, np.zeros(50, int))
    with pytest.raises(InputError, match="row 7") as caught:
        load_features(tmp_path).unit(4, 20)
    assert problem in str(caught.value)
    with pytest.raises(InputError, match="row 7"):
        load_features(tmp_path).unit_take(np.array([1, 7]))


def test_a_zero_row_is_refused(tmp_path, rows):
    rows[2] = 0
    write_features(tmp_path, rows, np.zeros(50, int))
    with pytest.raises(InputError, match="row 2 is zero"):
        load_features(tmp_path).unit(0, 50)


def test_float16_overflow_is_refused(tmp_path, rows):
    with np.errstate(over="ignore"):
        write_features(tmp_path, (rows * 1e6).astype(np.float16), np.zeros(50, int))
    with pytest.raises(InputError, match="beyond its format's range"):
        load_features(tmp_path).unit(0, 50)


def test_labels_that_do_not_match_are_refused(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(49, int))
    refuse(tmp_path, "(49,)", "50 rows")
    np.save(tmp_path / "labels.npy", np.zeros(50))
    refuse(tmp_path, "float64", "whole number")
    np.save(tmp_path / "labels.npy", np.full(50, -1))
    refuse(tmp_path, "label -1")


def test_names_that_do_not_match_are_refused(tmp_path, rows):
    write_features(tmp_path, rows, np.full(50, 2), ["a", "b"])
    refuse(tmp_path, "label 2", "2 lines")
    write_features(tmp_path, rows, np.full(50, 1), ["a", "a"])
    refuse(tmp_path, "'a' twice")
    write_features(tmp_path, rows, np.full(50, 1), ["a", "b"], ["only.jpg"])
    refuse(tmp_path, "paths.txt has 1 lines")


@pytest.mark.parametrize("name", ["features.npy", "labels.npy"])
def test_hostile_and_truncated_files_are_refused(tmp_path, rows, name):
    write_features(tmp_path, rows, np.zeros(50, int))
    whole = (tmp_path / name).read_bytes()
    for content in (b"", b"\x93NUMPY", whole[:-40], b"not an array", np.array([object()], object).dumps()):
        (tmp_path / name).write_bytes(content)
        refuse(tmp_path, str(tmp_path))


def test_wrong_kinds_of_content_are_refused(tmp_path, rows):
    write_features(tmp_path, rows.astype(int), np.zeros(50, int))
    refuse(tmp_path, "int64", "float32")
    write_features(tmp_path, rows[:, :, None], np.zeros(50, int))
    refuse(tmp_path, "(50, 8, 1)")
    write_features(tmp_path, rows[:0], np.zeros(0, int))
    refuse(tmp_path, "at least one row")
    write_features(tmp_path, rows, np.zeros(50, int))
    np.savez(tmp_path / "x.npz", rows=rows)
    refuse(tmp_path / "x.npz", "features (N×D)")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 broken")
    refuse(tmp_path / "y.npz", "not readable")


def test_a_meta_that_is_not_an_object_is_refused(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(50, int))
    for content in ("{", json.dumps([1])):
        (tmp_path / "meta.json").write_text(content)
        refuse(tmp_path, "meta.json")


def test_a_meta_that_a_report_could_not_hold_is_refused(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(50, int))
    for content, problem in (
        ('{"a": NaN}', "NaN"),
        ('{"method": "\\ud800"}', "surrogates"),
        ("[" * 99999, "recursion"),
    ):
        (tmp_path / "meta.json").write_text(content)
        refuse(tmp_path, "meta.json", problem)


def test_sizes_that_no_memory_holds_are_refused(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(50, int))
    whole = (tmp_path / "features.npy").read_bytes()
    (tmp_path / "features.npy").write_bytes(whole.replace(b"(50, 8)", b"(50,-8)"))
    refuse(tmp_path, "not readable as .npy")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 16)})
    for name, content, problem in (
        ("features.npy", header.getvalue() + b"\0" * 99, "not readable as .npz"),
        ("features", b"no array", "features of type"),
    ):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr(name, content)
            archive.write(tmp_path / "labels.npy", "labels.npy")
        refuse(tmp_path / "x.npz", problem)


def test_labels_beyond_int64_are_refused(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(50, int))
    np.save(tmp_path / "labels.npy", np.full(50, 2**63 + 5, np.uint64))
    refuse(tmp_path, f"label {2**63 + 5}", "int64")


def test_float64_beyond_float32_is_refused_in_one_line(tmp_path, rows, recwarn):
    write_features(tmp_path, rows.astype(np.float64) * 1e300, np.zeros(50, int))
    with pytest.raises(InputError, match="row 0 holds"):
        load_features(tmp_path).unit(0, 50)
    assert not recwarn.list


def test_a_name_may_hold_what_looks_like_the_end_of_a_line(tmp_path, rows):
    names = ["a\u2028b", "c\x1cd", " e "]
    write_features(tmp_path, rows, np.arange(50) % 3, names)
    assert load_features(tmp_path).names == names


def test_norms_are_those_of_the_stored_rows(tmp_path, rows):
    write_features(tmp_path, rows, np.zeros(50, int))
    np.testing.assert_allclose(load_features(tmp_path).norms(), np.sqrt((rows.astype(float) ** 2).sum(1)), rtol=1e-6)


def test_blocks_are_read_and_not_mapped(tmp_path, rows):
    np.save(tmp_path / "f.npy", rows)
    source = FileRows(tmp_path / "f.npy")
    block = source.read(0, 50)
    assert not isinstance(block, np.memmap)
    assert block.base is None or not isinstance(block.base, np.memmap)
    assert FeatureSet(source, np.zeros(50, int)).dimension == 8


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-22, 1e20, 1e37])
def test_tiny_and_huge_rows_have_their_direction(tmp_path, rows, size):
    odd = (rows[::2].astype(np.float64) * size).astype(np.float32)
    held = rows.copy()
    held[::2] = odd
    write_features(tmp_path, held, np.zeros(50, int))
    found = load_features(tmp_path)
    exact = held.astype(np.float64)
    lengths = np.sqrt((exact**2).sum(axis=1))
    np.testing.assert_allclose(found.unit(0, 50), exact / lengths[:, None], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.norms(), lengths, rtol=1e-6)
    # whoever was right before stays so to the last bit
    np.testing.assert_array_equal(found.unit(0, 50)[1::2], normalise(rows[1::2].copy()))


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", ">f2", ">f8", "<u2", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_either_byte_order_by_rows_or_columns_is_read(tmp_path, rows, kind, order):
    if kind.endswith("u2"):
        held = (rows.view(np.uint32) >> 16).astype(kind)
        expected = (held.astype(np.uint32) << 16).view(np.float32)
    else:
        held = rows.astype(kind)
        expected = held.astype(np.float32)
    write_features(tmp_path, rows, np.zeros(50, int), meta={"dtype": "bfloat16"} if kind.endswith("u2") else {})
    np.save(tmp_path / "features.npy", np.asarray(held, order=order))
    np.save(tmp_path / "labels.npy", np.arange(50).astype(">i4"))
    found = load_features(tmp_path)
    np.testing.assert_array_equal(found.stored.read(3, 17), expected[3:17])
    np.testing.assert_array_equal(found.stored.take(np.array([40, 2])), expected[[40, 2]])
    assert found.labels.tolist() == list(range(50))
