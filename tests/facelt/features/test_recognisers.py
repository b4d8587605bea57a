"""Recognisers that need no run: pixels and their mirror image, by hand."""

import pytest
import torch

from facelt.errors import UserError
from facelt.features.recognisers import (
    OnnxPixels,
    Recognised,
    Recogniser,
    from_onnx,
    from_pixels,
    onnx_providers,
    with_flip,
)
from facelt.run_folder import checkpoint


def test_pixels_are_grey_without_their_mean():
    images = torch.rand(2, 3, 4, 4) * 2 - 1
    (got,), columns = from_pixels(4).embed(images)
    assert columns == {}
    grey = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1).flatten(1)
    torch.testing.assert_close(got, grey - grey.mean(1, keepdim=True))


def test_flip_adds_the_unit_features_of_the_mirror_image_and_changes_nothing_else():
    def embed(images: torch.Tensor) -> Recognised:
        return Recognised([images.flatten(1)], {"mean": images.mean((1, 2, 3))})

    plain = Recogniser(embed, 4, {"recogniser": "pixels"})
    flipped = with_flip(plain)
    images = torch.randn(2, 3, 4, 4)
    unit = [torch.nn.functional.normalize(x.flatten(1)) for x in (images, images.flip(3))]
    features, columns = flipped.embed(images)
    torch.testing.assert_close(features[0], unit[0] + unit[1])
    torch.testing.assert_close(columns["mean"], images.mean((1, 2, 3)))
    assert (flipped.image_size, flipped.facts, flipped.embeddings) == (4, {"recogniser": "pixels"}, ("direct",))


def test_what_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file; give a recogniser in ONNX"):
        from_onnx(tmp_path / "none.onnx", OnnxPixels(), torch.device("cpu"))
    with pytest.raises(UserError, match="no checkpoint there"):
        checkpoint.find(tmp_path)


def test_onnxruntime_computes_where_it_is_told():
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    assert onnx_providers(torch.device("cpu"), every) == ["CPUExecutionProvider"]
    assert onnx_providers(torch.device("cuda", 3), every) == [
        ("CUDAExecutionProvider", {"device_id": 3}),
        "CPUExecutionProvider",
    ]
    assert onnx_providers(torch.device("cuda", 3), every[-1:]) == ["CPUExecutionProvider"]
