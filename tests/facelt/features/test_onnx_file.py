"""Recognisers in ONNX as people have them: what each takes is found, or asked for in one line."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from onnx_models import PIXELS, by_hand, write_model

from facelt.errors import UserError
from facelt.features.onnx_file import Affine, OnnxPixels, from_onnx, onnx_providers

RNG = np.random.default_rng(5)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def pictures(size=(16, 16), n: int = 11) -> np.ndarray:
    return RNG.integers(0, 256, (n, *size, 3)).astype(np.float64)


def features(path, images_NHW3: np.ndarray, pixels: OnnxPixels | None = None, output: str | None = None) -> np.ndarray:
    """What the recogniser gives of pictures of 0 … 255, fed as decoding feeds it: normalised as it says."""
    recogniser = from_onnx(path, pixels or OnnxPixels(), output)
    height, width = recogniser.decoding(4, torch.device("cpu")).shape
    assert (height, width) == images_NHW3.shape[1:3]
    fed = (images_NHW3 - np.array(recogniser.mean)) / np.array(recogniser.std)
    (rows,), _ = recogniser.embed(torch.from_numpy(fed.transpose(0, 3, 1, 2)).float())
    assert rows.dtype == torch.float32
    return rows.numpy()


def usual(images: np.ndarray) -> np.ndarray:
    return (images - 127.5) / 127.5


@pytest.mark.parametrize("batch", ["n", 1, 8])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (14, 12)])
def test_any_batch_layout_and_shape(batch, last, size, tmp_path):
    path = write_model(tmp_path / "m.onnx", batch=batch, last=last, size=size)
    images = pictures(size)
    np.testing.assert_allclose(features(path, images), by_hand(usual(images)), rtol=1e-3, atol=1e-3)


def test_a_free_batch_that_the_graph_does_not_keep(tmp_path):
    path = write_model(tmp_path / "m.onnx", one_by_one=True)
    images = pictures()
    np.testing.assert_allclose(features(path, images), by_hand(usual(images)), rtol=1e-3, atol=1e-3)


def test_float16_and_uint8(tmp_path):
    images = pictures()
    path = write_model(tmp_path / "half.onnx", number=TensorProto.FLOAT16)
    np.testing.assert_allclose(features(path, images), by_hand(usual(images)), atol=0.1)
    inside = (("Sub", [127.5]), ("Div", [127.5]))
    path = write_model(tmp_path / "bytes.onnx", number=TensorProto.UINT8, last=True, inside=inside)
    np.testing.assert_allclose(features(path, images), by_hand(usual(images)), rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="takes uint8, 0 … 255, and normalises itself; leave out --mean and --std"):
        from_onnx(path, OnnxPixels(mean=(127.5,)))


@pytest.mark.parametrize(
    "inside, mean, std",
    [
        ((("Sub", [127.5]), ("Mul", [1 / 128])), 127.5, 128),
        ((("Sub", [127.5]), ("Div", [127.5])), 127.5, 127.5),
        ((("Mul", [1 / 255]),), 0, 255),
        ((("Div", [255.0]), ("Sub", [0.485, 0.456, 0.406]), ("Div", [0.229, 0.224, 0.225])), MEAN, STD),
        ((("Mul", [1 / 127.5]), ("Add", [-1.0])), 127.5, 127.5),
        ((("Sub", [0.5]), ("Div", [0.5])), 127.5, 127.5),  # of 0 … 1
        ((("Sub", list(MEAN)),), MEAN, 1),
    ],
)
def test_normalisation_inside_is_not_done_twice(inside, mean, std, tmp_path):
    path = write_model(tmp_path / "m.onnx", inside=inside)
    images = pictures()
    want = by_hand((images - np.array(mean)) / np.array(std))
    np.testing.assert_allclose(features(path, images), want, rtol=1e-3, atol=2e-3 * np.abs(want).max())


def test_what_the_user_says_holds_one_number_or_three(tmp_path, capsys):
    path = write_model(tmp_path / "m.onnx")
    images = pictures()
    want = by_hand((images - np.array(MEAN)) / np.array(STD))
    np.testing.assert_allclose(features(path, images, OnnxPixels(MEAN, STD)), want, rtol=1e-3, atol=1e-3)
    want = by_hand((images / 255)[..., ::-1])
    np.testing.assert_allclose(features(path, images, OnnxPixels((0,), (255,), "bgr")), want, rtol=1e-3, atol=1e-3)
    inside = write_model(tmp_path / "inside.onnx", inside=(("Sub", [127.5]), ("Div", [127.5])))
    capsys.readouterr()
    want = by_hand(usual(images - 10))
    np.testing.assert_allclose(features(inside, images, OnnxPixels((10,), (1,))), want, rtol=1e-3, atol=1e-3)
    assert "warning: --onnx" in capsys.readouterr().err
    for wrong in (OnnxPixels((1, 2)), OnnxPixels(std=(0,)), OnnxPixels(mean=(float("nan"),))):
        with pytest.raises(UserError, match="expected one number or three"):
            from_onnx(path, wrong)


def test_a_scale_of_no_known_range_is_asked_about(tmp_path):
    path = write_model(tmp_path / "m.onnx", inside=(("Mul", [3.0]),))
    with pytest.raises(UserError, match=r"begins with x·\(3, 3, 3\) \+ \(0, 0, 0\).* say what it is fed"):
        from_onnx(path, OnnxPixels())
    assert len(features(path, pictures(), OnnxPixels((0,), (1,)))) == 11
    assert Affine(np.ones(3) * 0.5, np.ones(3) * 0.5).range() is None  # made for -1 … 1


def test_the_feature_among_several_outputs_is_found_by_its_shape(tmp_path):
    path = write_model(tmp_path / "m.onnx", outputs=("norm", "map", "feature"))
    images = pictures()
    np.testing.assert_allclose(features(path, images), by_hand(usual(images)), rtol=1e-3, atol=1e-3)
    twins = write_model(tmp_path / "twins.onnx", outputs=("twin", "norm", "feature"))
    with pytest.raises(
        UserError, match=r"twin \[2, 12\], norm \[2, 1\], feature \[2, 12\], several may be the feature"
    ):
        from_onnx(twins, OnnxPixels())
    assert features(twins, images, output="feature").shape == (11, PIXELS)
    with pytest.raises(UserError, match="--output-name norm is no feature"):
        from_onnx(twins, OnnxPixels(), "norm")
    with pytest.raises(UserError, match="no output other; its outputs are twin, norm, feature"):
        from_onnx(twins, OnnxPixels(), "other")
    with pytest.raises(UserError, match="none is a feature: expected N x D"):
        from_onnx(write_model(tmp_path / "none.onnx", outputs=("norm", "map")), OnnxPixels())


def test_what_is_no_recogniser_of_pictures_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no such file; give a recogniser in ONNX"):
        from_onnx(tmp_path / "none.onnx", OnnxPixels())
    path = write_model(tmp_path / "two.onnx", second_input=True)
    with pytest.raises(UserError, match=r"takes 2 inputs, data \['n', 3, 16, 16\], mask \['n', 1\]; expected"):
        from_onnx(path, OnnxPixels())
    path = write_model(tmp_path / "long.onnx", number=TensorProto.INT64)
    with pytest.raises(UserError, match=r"its input data is tensor\(int64\)"):
        from_onnx(path, OnnxPixels())


def test_onnxruntime_computes_where_it_is_told():
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    assert onnx_providers(torch.device("cpu"), every) == ["CPUExecutionProvider"]
    assert onnx_providers(torch.device("cuda", 3), every) == [
        ("CUDAExecutionProvider", {"device_id": 3}),
        "CPUExecutionProvider",
    ]
    assert onnx_providers(torch.device("cuda", 3), every[-1:]) == ["CPUExecutionProvider"]
