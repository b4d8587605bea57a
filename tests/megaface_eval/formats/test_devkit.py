"""MegaFace's own files."""

import json
import struct

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import load_features
from megaface_eval.formats.devkit import (
    encode_curves,
    encode_matches,
    main,
    read_bin,
    read_list,
    result_files,
    write_bin,
)


def test_a_vector_is_written_as_the_tools_write_it(tmp_path):
    vector = np.arange(512, dtype=np.float32)
    write_bin(tmp_path / "f.bin", vector)
    data = (tmp_path / "f.bin").read_bytes()
    assert data[:16] == struct.pack("<4i", 512, 1, 4, 5)
    assert data[16:] == vector.tobytes()
    np.testing.assert_array_equal(read_bin(tmp_path / "f.bin"), vector[:, None])


def test_padded_rows_and_doubles_are_read(tmp_path):
    matrix = np.arange(6, dtype=np.float64).reshape(2, 3)
    padded = np.hstack([matrix, np.full((2, 1), -1.0)])
    (tmp_path / "f.bin").write_bytes(struct.pack("<4i", 2, 3, 32, 6) + padded.tobytes())
    np.testing.assert_array_equal(read_bin(tmp_path / "f.bin"), matrix)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "expected a header"),
        (struct.pack("<4i", 4, 1, 4, 5) + b"\0" * 12, "truncated"),
        (struct.pack("<4i", 4, 1, 4, 5) + b"\0" * 20, "cannot hold"),
        (struct.pack("<4i", 4, 1, 4, 0) + b"\0" * 16, "type 0"),
        (struct.pack("<4i", -4, 1, 4, 5), "cannot hold"),
        (struct.pack("<4i", 1, 4, 4, 5) + b"\0" * 4, "cannot hold"),
    ],
)
def test_a_hostile_matrix_is_refused(tmp_path, content, problem):
    (tmp_path / "f.bin").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_bin(tmp_path / "f.bin")


def write_tree(tmp_path, ids=True):
    """A devkit's list and its tree of feature files; returns their rows and paths."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 16)).astype(np.float32)
    paths = [f"person {i // 2}/image{i}.png" for i in range(6)]
    for path, row in zip(paths, rows, strict=True):
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        write_bin(tmp_path / "root" / f"{path}_arc.bin", row)
    listed = {"path": paths} | ({"id": [f"person {i // 2}" for i in range(6)]} if ids else {})
    (tmp_path / "list.json").write_text(json.dumps(listed))
    return rows, paths


@pytest.mark.parametrize("ids", [True, False])
def test_a_tree_packs_into_a_feature_set(tmp_path, ids, capsys):
    rows, paths = write_tree(tmp_path, ids)
    assert main(["pack", f"{tmp_path}/list.json", f"{tmp_path}/root", "_arc.bin", "--output", f"{tmp_path}/set"]) == 0
    features = load_features(tmp_path / "set")
    np.testing.assert_array_equal(features.stored.read(0, 6), rows)
    assert features.paths == paths
    assert features.labels.tolist() == ([0, 0, 1, 1, 2, 2] if ids else list(range(6)))
    assert features.names == (["person 0", "person 1", "person 2"] if ids else None)
    assert features.meta["method"] == "arc"


def test_mistakes_are_answered_in_one_line_and_leave_nothing(tmp_path, capsys):
    write_tree(tmp_path)
    write_bin(tmp_path / "root/person 2/image5.png_arc.bin", np.ones(8, np.float32))

    def said(*arguments):
        assert main(["pack", *map(str, arguments), "--output", f"{tmp_path}/set"]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "set").exists()
        return error

    assert "8 dimensions" in said(tmp_path / "list.json", tmp_path / "root", "_arc.bin")
    assert "No such file" in said(tmp_path / "list.json", tmp_path / "root", "_other.bin")
    assert "list.json" in said(tmp_path / "root", tmp_path / "root", "_arc.bin").replace("root", "list.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["list.json", "root"]


@pytest.mark.parametrize(
    "content, problem",
    [
        ("[1]", "expected an object"),
        ("{", "not JSON"),
        ('{"path": []}', "expected an object"),
        ('{"path": ["a", "b"], "id": [1]}', "one length"),
        ('{"path": ["a", "b", "a"]}', "'a' is listed twice"),
    ],
)
def test_lists_that_cannot_be_right_are_refused(tmp_path, content, problem):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=problem):
        read_list(tmp_path / "list.json")


def test_results_have_the_devkit_s_layout():
    query, mate, ranks = np.array([0, 0, 1, 2]), np.array([1, 2, 0, 0]), np.array([0, 3, 0, 7])
    curves = encode_curves(([0, 3, 7], [0.5, 0.75, 1.0]), ([0.1, 1.0], [0.4, 1.0]))
    files = result_files("arc", 1000, curves, encode_matches(query, mate, ranks))
    assert set(files) == {"cmc_facescrub_megaface_arc_1000_1.json", "matches_facescrub_megaface_arc_1000_1.json"}
    curves = json.loads(files["cmc_facescrub_megaface_arc_1000_1.json"])
    assert curves == {"cmc": [[0, 3, 7], [0.5, 0.75, 1.0]], "roc": [[0.1, 1.0], [0.4, 1.0]]}
    matches = json.loads(files["matches_facescrub_megaface_arc_1000_1.json"])
    # images 0, 1 and 2 in turn among the distractors
    assert matches == [{"probes": {"idx": [1, 2], "rank": [0, 7]}}, {"probes": {"idx": [0], "rank": [0]}},
                       {"probes": {"idx": [0], "rank": [3]}}]  # fmt: skip
