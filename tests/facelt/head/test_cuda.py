"""The head on CUDA is the dense head, in float64. By `make gpu` on a device, else on the one that is not there."""

from typing import Any

import pytest
import torch
from fake_cuda import maybe_fake_cuda, on_host
from head_cases import CASES, assert_dense, by_triton, expected, sharded

from facelt.head.kernels.self_check import TORCH, Problem, disagreements, solve
from facelt.head.products import Products


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    torch.set_default_dtype(torch.float32)


LOWS: dict[str, Products] = {"float32": torch.float32, "tf32": "tf32", "bfloat16": torch.bfloat16}


def on_cuda(*case: Any, kernels: bool = False) -> dict:
    """What `sharded` gives on the device, brought to the host. kernels: by Triton's."""
    with maybe_fake_cuda():
        got = on_host(sharded(*case, device="cuda", kernels=kernels))
    parts = {name: value.cpu() for name, value in got.pop("parts").items()}
    return {**{name: tensor.detach().cpu().numpy() for name, tensor in got.items()}, "parts": parts}


@pytest.mark.parametrize("block", [3, 4096])
@pytest.mark.parametrize("K, preset, near, knobs", CASES)
def test_the_head_on_cuda_is_the_dense_head(K, preset, near, knobs, block):
    assert_dense([on_cuda(K, preset, near, block, knobs)], expected(K, preset, near, knobs))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card: elsewhere the interpreter's tests stand")
@pytest.mark.parametrize("kind", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("G, k, D", [(1, 1, 8), (33, 1000, 100), (128, 9000, 512), (300, 5000, 64)])
@pytest.mark.parametrize("cosine, share", [(True, 1.0), (True, 0.3), (False, 1.0), (False, 0.3)])
def test_on_a_card_kernels_agree_with_blocks(cosine, share, G, k, D, kind):
    problem = Problem(G, k, D, LOWS[kind], cosine, share=share)
    device, kernels = torch.device("cuda", 0), by_triton()
    got, want = (solve(each, problem, device) for each in (kernels, TORCH))
    assert not disagreements(got, want, problem.tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card: elsewhere the interpreter's tests stand")
@pytest.mark.parametrize("K, preset, near, knobs", CASES)
def test_on_a_card_the_head_by_kernels_is_the_dense_head(K, preset, near, knobs):
    assert_dense([on_cuda(K, preset, near, 4096, knobs, 1, kernels=True)], expected(K, preset, near, knobs))


@pytest.mark.parametrize("preset", ["released", "cosine"])
def test_a_sample_of_the_classes_on_cuda(preset):
    assert_dense([on_cuda(13, preset, True, 3, {}, 0.3)], expected(13, preset, True, {}, 0.3))
