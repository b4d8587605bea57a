"""What the kernels share: how the scores of a tile are made, and how large tiles are.

A kernel's program holds a tile of rows x classes and goes through D in pieces. Scores are those of `Keys`:
l_gn = (x_g·w_n · 1/‖w_n‖ + b_n) · factor_n + offset_n, of which each part but the product may be absent (None).
Operands of products are rounded to LOW as they are read; products, and all that sums, are SUM (float32, or float64).

g: a row among G. n: a class's place among the N that take part; `chosen` has their rows among k, where not all do.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from facelt.head.blocked import ClassBlocks, accumulate_dtype
from facelt.head.products import Products

# Programs at once, about: two for each multiprocessor of an H100. Classes are split among them, rows permitting.
PROGRAMS = 264
# Of a program: with four, what it holds would not stay in registers.
WARPS = 8


class Rounding(NamedTuple):
    """How a kernel's products are made. WIDE: operands rounded to bfloat16 stay float32, see `rounding`."""

    LOW: tl.dtype
    SUM: tl.dtype
    PRECISION: str
    WIDE: bool


class Tiles(NamedTuple):
    """Rows, classes and pieces of D of a tile: powers of two, 16 at least, as matrix units have them."""

    TG: int
    TN: int
    TD: int


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the CPU (TRITON_INTERPRET=1)."""
    return knobs.runtime.interpret


def rounding(x_GD: Tensor, low: Products) -> Rounding:
    """For products whose operands are rounded to `low`.

    Triton's interpreter multiplies no bfloat16: there operands are rounded in float32, which gives the same products.
    """
    if x_GD.dtype == torch.float64:
        return Rounding(tl.float64, tl.float64, "ieee", False)
    if low == torch.bfloat16:
        return Rounding(tl.bfloat16, tl.float32, "ieee", interpreted())
    return Rounding(tl.float32, tl.float32, "tf32" if low == "tf32" else "ieee", False)


def settings(x_GD: Tensor, low: Products, tiles: Tiles) -> dict[str, Any]:
    """What a kernel is compiled for, by name."""
    return rounding(x_GD, low)._asdict() | tiles._asdict() | {"num_warps": WARPS}


def stored_dtype(x_GD: Tensor, low: Products) -> torch.dtype:
    """Of what a kernel writes for products to take."""
    return torch.bfloat16 if low == torch.bfloat16 and x_GD.dtype != torch.float64 else accumulate_dtype(x_GD)


def tiles_for(x_GD: Tensor) -> Tiles:
    """Of a batch of rows, so that what a program holds stays in registers."""
    G, D = x_GD.shape
    return Tiles(_fitting(G, 64), 64, _fitting(D, 32))


def _fitting(count: int, most: int) -> int:
    """The power of two that holds so many, from 16 to `most`."""
    return max(16, min(most, triton.next_power_of_2(count)))


class Split(NamedTuple):
    """Classes shared among programs: `count` ranges of `span` places each, the last perhaps shorter, or empty."""

    count: int
    span: int

    @classmethod
    def of(cls, places: int, G: int, tiles: Tiles) -> "Split":
        """Of so many places beside G rows."""
        pieces = max(triton.cdiv(places, tiles.TN), 1)
        most = max(PROGRAMS // max(triton.cdiv(G, tiles.TG), 1), 1)
        each = triton.cdiv(pieces, min(pieces, most))
        return cls(triton.cdiv(pieces, each), each * tiles.TN)


def place_of_pairs(blocks: ClassBlocks, G: int) -> Tensor | None:
    """The place of each row's pair (G; -1: none), where there are pairs."""
    return None if blocks.pairs is None else blocks.pair_places(G)[:, 0].contiguous()


def whole(tensor: Tensor | None) -> Any:
    """As a kernel takes it: without gradient, side by side in memory."""
    return None if tensor is None else tensor.detach().contiguous()


@triton.jit
def rounded(a, LOW: tl.constexpr, WIDE: tl.constexpr):
    """A tile as products take it."""
    if WIDE:
        # To the nearest bfloat16, of two the even: the interpreter's own cast cuts digits off.
        bits = a.to(tl.uint32, bitcast=True)
        a = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.uint32).to(tl.float32, bitcast=True)
    else:
        a = a.to(LOW)
    return a


@triton.jit
def multiply(a, b, LOW: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr):
    """a·b of two tiles."""
    return tl.dot(rounded(a, LOW, WIDE), rounded(b, LOW, WIDE), input_precision=PRECISION, out_dtype=SUM)


@triton.jit
def rows_of(chosen, n, in_n):
    """Local numbers of the classes at these places."""
    if chosen is not None:
        rows = tl.load(chosen + n, mask=in_n, other=0)
    else:
        rows = n.to(tl.int64)
    return rows


@triton.jit
def piece(matrix, rows, in_rows, first, D, SUM: tl.constexpr, TD: tl.constexpr):
    """matrix[rows, first : first + TD] of a matrix with D columns; zeros beyond its edges."""
    d = first + tl.arange(0, TD)
    inside = in_rows[:, None] & (d < D)[None, :]
    return tl.load(matrix + rows[:, None] * D + d[None, :], mask=inside, other=0.0).to(SUM)


@triton.jit
def inverse_of(squares):
    """1/‖w‖ from ‖w‖², finite for a zero row."""
    return 1.0 / tl.maximum(tl.sqrt(squares), 1e-12)


@triton.jit
def biased(l_gn, bias, rows, in_n):
    """l + b."""
    if bias is not None:
        l_gn += tl.load(bias + rows, mask=in_n, other=0.0)[None, :]
    return l_gn
