"""Feature sets: a row for each image in the set's order, whole or not at all, whatever stood there before."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from faces import write_faces
from ranks import run_ranks

from facelt.errors import UserError
from facelt.features import feature_set
from facelt.features.draft import Draft, made_of
from facelt.features.feature_set import write_features
from facelt.features.recognisers import Recognised, Recogniser
from facelt.images.dali import Decoding
from megaface_eval.features.feature_set import load_features
from recordio_tools.dataset import RecordDataset
from recordio_tools.writer import DatasetWriter

N = 15  # 5 classes of 3
PLAN = {"data": "these"}


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
    write_features([(folder, PLAN) for folder in folders], recogniser, RecordDataset(Path(data)), decoding, data)


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
        assert facts == {**want, "made_of": made_of(PLAN)}


def write_until(data: str, output: str, batch: int, fails_at: int, seconds: float) -> int:
    """Write, but fail in the batch of this number; how many batches were embedded. seconds: of a block."""
    feature_set.BLOCK_SECONDS = seconds
    calls = []

    def embed(images_B3SS):
        if len(calls) == fails_at:
            raise RuntimeError("no more")
        calls.append(1)
        return means(images_B3SS)

    recogniser = Recogniser(embed, 32, {"recogniser": "means"}, ("direct", "meta"))
    outputs = [(Path(output) / name, PLAN) for name in recogniser.embeddings]
    decoding = Decoding(32, batch, torch.device("cpu"), threads=1)
    with suppress(RuntimeError):
        write_features(outputs, recogniser, RecordDataset(Path(data)), decoding, data)
    return len(calls)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@pytest.mark.parametrize("ranks, batch", [(1, 4), (2, 2), (3, 1)])
def test_what_is_interrupted_goes_on_and_is_bit_for_bit_an_unbroken_run(data, tmp_path, ranks, batch, seconds):
    steps = -(-N // (ranks * batch))
    run_ranks(ranks, write, str(data), str(tmp_path / "unbroken"), batch)
    for fails_at, more in ((2, 2), (1, 1), (steps, steps - 3)):
        embedded = run_ranks(ranks, write_until, str(data), str(tmp_path / "broken"), batch, fails_at, seconds)
        assert embedded == [more] * ranks
        whole = fails_at == steps
        assert (tmp_path / "broken" / "direct").exists() == whole
        hidden = {path.name for path in (tmp_path / "broken").iterdir() if path.name.startswith(".")}
        assert hidden == (set() if whole else {".direct.unfinished", ".meta.unfinished"})
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")


def test_what_fails_before_the_first_block_leaves_what_was_there_and_nothing_else(data, tmp_path):
    write(str(data), str(tmp_path), 4)
    before = contents(tmp_path)
    assert write_until(str(data), str(tmp_path), 4, 0, 20) == 0
    assert contents(tmp_path) == before


def test_a_set_that_was_replaced_half_way_is_no_draft(data, tmp_path, monkeypatch):
    """Killed after the exchange: what is left of the draft is the output of before, and is not gone on with."""
    write(str(data), str(tmp_path), 4)
    monkeypatch.setattr(Draft, "drop", lambda self: None)
    monkeypatch.setattr(Draft, "close", lambda self: self._lock.release())
    write(str(data), str(tmp_path), 15)
    assert (tmp_path / ".direct.unfinished" / "set" / "features.npy").exists()
    monkeypatch.undo()
    assert write_until(str(data), str(tmp_path), 4, 99, 20) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct", "meta"]


def test_pictures_lead_to_their_files(tmp_path):
    unnamed = RecordDataset(write_faces(tmp_path / "data", classes=2, images=1))
    paths = ["b/\udcff.jpg", "a/größe 1.jpg"]  # a file name that is no UTF-8
    with DatasetWriter(tmp_path / "named", 2, (32, 32), paths=paths) as writer:
        for label in range(2):
            writer.add(unnamed.jpeg(label).tobytes(), label)
    write(str(tmp_path / "named"), str(tmp_path / "out"), 2)
    assert load_features(tmp_path / "out" / "direct").paths == paths
    assert (tmp_path / "out" / "meta" / "paths.txt").read_bytes() == (tmp_path / "named" / "paths.txt").read_bytes()


def test_what_came_meanwhile_stays_unless_it_may_be_replaced(data, tmp_path):
    def racing(images_B3SS):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / "other").touch()
        return Recognised([means(images_B3SS).features[0]], {})

    decoding = Decoding(32, 4, torch.device("cpu"), threads=1)
    given = ([(tmp_path / "f", PLAN)], Recogniser(racing, 32, {}), RecordDataset(data), decoding, str(data))
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
    write_features([(tmp_path / "own", PLAN)], Recogniser(alike, 32, {}), *given)
    said = capsys.readouterr().err
    assert f"warning: the mean cosine of {N} images of {data} is 1.0000" in said
    rows = np.load(tmp_path / "own" / "features.npy").astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(N, dtype=bool)]
    assert cosines.mean() > 0.99
    with pytest.raises(UserError, match="the model wants other pixels"):
        write_features([(tmp_path / "theirs", PLAN)], Recogniser(alike, 32, {}, foreign=True), *given)
    assert not (tmp_path / "theirs").exists()
