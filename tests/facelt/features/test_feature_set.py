"""Feature sets: a row for each image in the set's order, whole or not at all, whatever stood there before."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faces import write_faces
from ranks import run_ranks

from facelt.errors import UserError
from facelt.features.feature_set import write_features
from facelt.features.recognisers import Recognised, Recogniser
from facelt.images.dali import Decoding
from recordio_tools.dataset import RecordDataset

N = 15  # 5 classes of 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("set") / "data", images=3)


def means(images_B3SS: torch.Tensor) -> Recognised:
    features = [images_B3SS.mean((2, 3)), images_B3SS.flatten(1)[:, :7]]
    return Recognised(features, {"top": images_B3SS.amax((1, 2, 3))})


def write(data: str, output: str, batch: int) -> None:
    recogniser = Recogniser(means, 32, {"recogniser": "means"}, ("direct", "meta"))
    folders = [Path(output) / name for name in recogniser.embeddings]
    decoding = Decoding(32, batch, torch.device("cpu"), threads=1)
    write_features(folders, recogniser, RecordDataset(Path(data)), decoding, data)


@pytest.mark.parametrize("ranks, batch", [(1, 4), (2, 4), (3, 2)])
def test_rows_in_the_sets_order_at_any_number_of_ranks(data, tmp_path, ranks, batch):
    run_ranks(1, write, str(data), str(tmp_path / "one"), 15)
    run_ranks(ranks, write, str(data), str(tmp_path / "many"), batch)
    for name, width in (("direct", 3), ("meta", 7)):
        one, many = (np.load(tmp_path / run / name / "features.npy") for run in ("one", "many"))
        assert one.shape == (N, width)
        assert one.dtype == np.float32
        np.testing.assert_allclose(many, one, atol=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / "many" / name / "labels.npy"), np.repeat(np.arange(5), 3))
        norms = np.load(tmp_path / "many" / name / "norm.npy")
        np.testing.assert_allclose(norms, np.linalg.norm(one, axis=1), rtol=1e-5)
        tops = [np.load(tmp_path / run / name / "top.npy") for run in ("one", "many")]
        np.testing.assert_allclose(tops[1], tops[0], atol=1e-6)
        assert tops[0].shape == (N,)
        facts = json.loads((tmp_path / "many" / name / "meta.json").read_text(encoding="utf-8"))
        want = {"recogniser": "means", "data": str(data), "embedding": name, "images": N, "dimension": width}
        assert facts == want


def test_what_fails_half_way_leaves_what_was_there(data, tmp_path, monkeypatch):
    write(str(data), str(tmp_path), 4)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    calls = []

    def failing(images_B3SS):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no more")
        return means(images_B3SS)

    recogniser = Recogniser(failing, 32, {}, ("direct", "meta"))
    folders = [tmp_path / "direct", tmp_path / "meta"]
    decoding = Decoding(32, 4, torch.device("cpu"), threads=1)
    with pytest.raises(RuntimeError, match="no more"):
        write_features(folders, recogniser, RecordDataset(data), decoding, str(data))
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_what_came_meanwhile_stays_unless_it_may_be_replaced(data, tmp_path):
    def racing(images_B3SS):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / "other").touch()
        return Recognised([means(images_B3SS).features[0]], {})

    decoding = Decoding(32, 4, torch.device("cpu"), threads=1)
    given = ([tmp_path / "f"], Recogniser(racing, 32, {}), RecordDataset(data), decoding, str(data))
    with pytest.raises(UserError, match="exists already"):
        write_features(*given, force=False)
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["other"]
    write_features(*given)
    assert not (tmp_path / "f" / "other").exists()


def alike(images_B3SS: torch.Tensor) -> Recognised:
    return Recognised([images_B3SS.mean((2, 3)) + 100], {})


def test_features_that_are_all_alike_are_warned_of_or_refused_of_a_foreign_recogniser(data, tmp_path, capsys):
    decoding = Decoding(32, 4, torch.device("cpu"), threads=1)
    given = (RecordDataset(data), decoding, str(data))
    write_features([tmp_path / "own"], Recogniser(alike, 32, {}), *given)
    said = capsys.readouterr().err
    assert f"warning: the mean cosine of {N} images of {data} is 1.0000" in said
    rows = np.load(tmp_path / "own" / "features.npy").astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(N, dtype=bool)]
    assert cosines.mean() > 0.99
    with pytest.raises(UserError, match="the model wants other pixels"):
        write_features([tmp_path / "theirs"], Recogniser(alike, 32, {}, foreign=True), *given)
    assert not (tmp_path / "theirs").exists()
