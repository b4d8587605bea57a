"""The head on CUDA is the dense head, in float64. By `make gpu` on a device, else on the one that is not there."""

from typing import Any

import pytest
import torch
from fake_cuda import maybe_fake_cuda, on_host
from head_cases import CASES, assert_dense, expected, sharded


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    torch.set_default_dtype(torch.float32)


def on_cuda(*case: Any) -> dict:
    """What `sharded` gives on the device, brought to the host."""
    with maybe_fake_cuda():
        got = on_host(sharded(*case, device="cuda"))
    parts = {name: value.cpu() for name, value in got.pop("parts").items()}
    return {**{name: tensor.detach().cpu().numpy() for name, tensor in got.items()}, "parts": parts}


@pytest.mark.parametrize("block", [3, 4096])
@pytest.mark.parametrize("K, preset, near, knobs", CASES)
def test_the_head_on_cuda_is_the_dense_head(K, preset, near, knobs, block):
    assert_dense([on_cuda(K, preset, near, block, knobs)], expected(K, preset, near, knobs))


@pytest.mark.parametrize("preset", ["released", "cosine"])
def test_a_sample_of_the_classes_on_cuda(preset):
    assert_dense([on_cuda(13, preset, True, 3, {}, 0.3)], expected(13, preset, True, {}, 0.3))
