"""The recogniser from Python: whatever it is loaded from, the features of the run; pictures of every kind."""

import numpy as np
import pytest
import torch
from onnx_models import by_hand, write_model
from PIL import Image
from runs import write_random_run

from facelt import export
from facelt.features.recognisers import from_checkpoint
from facelt.recogniser import Match, OnnxPixels, Recogniser, UserError
from facelt.run_folder import checkpoint

K = 5
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(70)]  # more than a batch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_random_run(tmp_path_factory.mktemp("recogniser") / "run", K)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_run_and_what_was_exported_of_it_are_one(run, tmp_path):
    through = from_checkpoint(checkpoint.find(run), ("meta",), torch.device("cpu"))
    fed = torch.from_numpy((np.stack(PICTURES).transpose(0, 3, 1, 2) - 127.5) / 127.5).float()
    want = through.embed(fed).features[0].numpy()
    loaded = Recogniser.load(run, "meta")
    got = loaded.features(PICTURES)
    assert (got.shape, got.dtype, loaded.dimension) == ((70, 16), np.float32, 16)
    np.testing.assert_allclose(got, unit(want), atol=1e-5)
    np.testing.assert_allclose(loaded.features(PICTURES, unit=False), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    path = tmp_path / "m.safetensors"
    assert export.main([str(run), "--safetensors", str(path), "--embedding", "meta"]) == 0
    np.testing.assert_allclose(Recogniser.load(path).features(PICTURES), unit(want), atol=1e-4)


def test_pil_images_arrays_and_other_sizes(tmp_path):
    recogniser = Recogniser.load(write_model(tmp_path / "m.onnx", size=(32, 24)))
    images = np.stack(PICTURES[:4])
    want = unit(by_hand((images[:, :, 4:28] - 127.5) / 127.5))
    np.testing.assert_allclose(recogniser.features(images), want, atol=1e-4)
    np.testing.assert_allclose(recogniser.features(Image.fromarray(image) for image in images), want, atol=1e-4)
    grey = Image.fromarray(images[0]).convert("L")
    three = np.asarray(grey)[:, :, None].repeat(3, 2)
    np.testing.assert_array_equal(recogniser.features([grey]), recogniser.features([three]))
    large = [Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST) for image in images]
    assert (recogniser.features(large) * want).sum(1).min() > 0.5


def test_compare_and_identify(tmp_path):
    recogniser = Recogniser.load(write_model(tmp_path / "m.onnx", size=(32, 32)), pixels=OnnxPixels((0,), (1,)))
    a, b, c = PICTURES[:3]
    rows = unit(by_hand(np.stack([a, b, c]).astype(float)))
    assert recogniser.compare(a, a) == pytest.approx(1, abs=1e-5)
    assert recogniser.compare(a, b) == pytest.approx(rows[0] @ rows[1], abs=1e-4)
    found = recogniser.identify({"Ann": [a, b], "Bo": c}, [c, a])
    both = (rows[0] + rows[1]) / np.linalg.norm(rows[0] + rows[1])
    assert [match.name for match in found] == ["Bo", "Ann"]
    assert found[0] == Match("Bo", pytest.approx(1, abs=1e-5))
    assert found[1].score == pytest.approx(rows[0] @ both, abs=1e-4)


def test_mistakes_are_said(run, tmp_path):
    recogniser = Recogniser.load(write_model(tmp_path / "m.onnx", size=(32, 32)))
    for given, said in (
        ([np.zeros((32, 32, 3))], "float64 of shape"),
        ([np.zeros((32, 32), np.uint8)], "uint8 of shape"),
        (["a.jpg"], "a picture is str"),
        ([], "expected one picture at least"),
        (Image.new("RGB", (32, 32)), "expected one picture at least, in a list"),
    ):
        with pytest.raises(UserError, match=said):
            recogniser.features(given)
    with pytest.raises(UserError, match="a person at least"):
        recogniser.identify({}, PICTURES[:1])
    with pytest.raises(UserError, match="expected one of direct, memory"):
        Recogniser.load(run, "best")
    with pytest.raises(UserError, match="a file has its embedding by itself"):
        Recogniser.load(tmp_path / "m.onnx", "meta")
    with pytest.raises(UserError, match="pixels are of ONNX files"):
        Recogniser.load(run, pixels=OnnxPixels())
    with pytest.raises(UserError, match="no such file"):
        Recogniser.load(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no checkpoint there"):
        Recogniser.load(tmp_path)
    nan = Recogniser.load(write_model(tmp_path / "nan.onnx", size=(32, 32), times=float("nan")))
    with pytest.raises(UserError, match="expected finite ones"):
        nan.features(PICTURES[:1])
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="holds tensors alone"):
        Recogniser.load(tmp_path / "bare.safetensors")
