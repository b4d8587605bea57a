"""Products whose operands are rounded: their results and sums are not, and nothing else of the process changes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from facelt.head.products import add_product, multiply, operand

left, right = torch.randn(48, 96, generator=torch.Generator().manual_seed(0)), torch.randn(96, 80)
has_units = torch.cpu._is_amx_tile_supported()


def exact(low: torch.dtype) -> torch.Tensor:
    return left.to(low).double() @ right.to(low).double()


def test_bfloat16_rounds_operands_alone():
    got = multiply(left, right, torch.bfloat16)
    assert got.dtype == torch.float32
    of_operands = exact(torch.bfloat16 if has_units else torch.float32)  # without matrix units nothing is rounded
    torch.testing.assert_close(got.double(), of_operands, rtol=1e-5, atol=1e-5)
    rounded_result = (left.bfloat16() @ right.bfloat16()).double()
    assert (rounded_result - of_operands).abs().max() > 100 * (got.double() - of_operands).abs().max()


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16, "tf32"])
def test_a_product_into_memory_and_added_to_it(low):
    out, total = torch.empty(48, 80), torch.ones(48, 80)
    want = multiply(left, right, low)
    assert multiply(left, right, low, out) is out
    assert torch.equal(out, want)
    add_product(total, left, right, low)
    torch.testing.assert_close(total, 1 + want)
    assert torch.equal(multiply(operand(left, low), right, low), want)


@pytest.mark.parametrize("low", [torch.bfloat16, "tf32"])
def test_float64_is_never_rounded(low):
    wide = left.double()
    assert torch.equal(multiply(wide, right.double(), low), wide @ right.double())


class Switches(TorchDispatchMode):
    """What float32 products might round to, whenever one is computed."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            self.found = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
        return function(*args, **(kwargs or {}))


def test_switches_are_as_before_afterwards():
    switches = Switches()
    before = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    wanted = {torch.float32: before, torch.bfloat16: ("bf16", before[1]), "tf32": (before[0], "tf32")}
    for low, during in wanted.items():
        with switches:
            multiply(left, right, low)
        assert switches.found == during
        with pytest.raises(RuntimeError):
            multiply(left, left, low)
        assert (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == before
