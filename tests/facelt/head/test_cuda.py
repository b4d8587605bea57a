"""The head on a CUDA device is the dense head, in float64. Run by `make gpu`; elsewhere there is nothing to run on."""

import pytest
import torch
from head_cases import CASES, assert_dense, expected, sharded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("block", [3, 4096])
@pytest.mark.parametrize("K, preset, near, knobs", CASES)
def test_the_head_on_cuda_is_the_dense_head(K, preset, near, knobs, block):
    got = sharded(K, preset, near, block, knobs, device="cuda")
    parts = {name: value.cpu() for name, value in got.pop("parts").items()}
    plain = {name: tensor.detach().cpu().numpy() for name, tensor in got.items()}
    assert_dense([{**plain, "parts": parts}], expected(K, preset, near, knobs))


@pytest.mark.parametrize("preset", ["released", "cosine"])
def test_a_sample_of_the_classes_on_cuda(preset):
    got = sharded(13, preset, True, 3, {}, 0.3, "cuda")
    parts = {name: value.cpu() for name, value in got.pop("parts").items()}
    plain = {name: tensor.detach().cpu().numpy() for name, tensor in got.items()}
    assert_dense([{**plain, "parts": parts}], expected(13, preset, True, {}, 0.3))
