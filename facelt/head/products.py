"""Matrix products whose operands may be rounded; results, and what sums, are float32 at least.

`low` says to what operands are rounded: a dtype, or "tf32", which only a CUDA device has (elsewhere it is float32).
With bfloat16, CUDA multiplies operands that were rounded beforehand into float32; a processor rounds them as it
multiplies, if oneDNN has matrix units for them (AMX), and otherwise leaves them as they are, which is exacter and
faster there. float64 stays as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

Products = torch.dtype | Literal["tf32"]

# The knob `products` -> `low`; None: what the operands are.
BY_NAME: dict[str, Products | None] = {"float32": None, "tf32": "tf32", "bfloat16": torch.bfloat16}


def rounds(low: Products) -> bool:
    """Whether products lose digits of float32."""
    return low == "tf32" or low == torch.bfloat16


def operand(tensor: Tensor, low: Products) -> Tensor:
    """A tensor that several products take, as they take it."""
    if low == "tf32" or (low == torch.bfloat16 and tensor.dtype == torch.float64):
        return tensor
    if low == torch.bfloat16 and tensor.device.type != "cuda":
        return tensor.float()
    return tensor.to(low)


def multiply(left: Tensor, right: Tensor, low: Products, out: Tensor | None = None) -> Tensor:
    """left @ right, into `out` if that is given."""
    left, right = operand(left, low), operand(right, low)
    if low == torch.bfloat16 and left.dtype == low:
        return torch.mm(left, right, out_dtype=torch.float32, **({} if out is None else {"out": out}))
    with _rounding(left, low):
        return torch.mm(left, right, out=out)


def add_product(into: Tensor, left: Tensor, right: Tensor, low: Products | None = None) -> None:
    """into += left @ right. low: None: left's dtype."""
    low = low or left.dtype
    left, right = operand(left, low), operand(right, low)
    if left.dtype != into.dtype:
        into.add_(multiply(left, right, low))
        return
    with _rounding(left, low):
        into.addmm_(left, right)


@contextmanager
def _rounding(operand: Tensor, low: Products) -> Iterator[None]:
    """Float32 products within may round their operands, where `low` and the device have it so."""
    if not rounds(low) or operand.dtype != torch.float32:
        yield
        return
    backends: Any = torch.backends
    switch = backends.cuda.matmul if low == "tf32" else backends.mkldnn.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "tf32" if low == "tf32" else "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before
