"""What the class-sharded parts share: classes visited in blocks, products at a chosen precision, gradients in place.

A gradient of a class-sharded parameter is added into its `.grad` where it stands, block by block; the buffer is kept
between steps: at these sizes fresh pages for a gradient cost as much as the matrix product that fills it, and
accumulating over micro-batches needs no second copy. To autograd such a parameter therefore returns no gradient.

G: rows of all ranks, D: embedding size, k: classes of this rank, b: classes of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 4096

Rows = slice | Tensor


def accumulate_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays; everything else accumulates in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class Pairs(NamedTuple):
    """(image, class) pairs: rows among G, and local class numbers."""

    rows: Tensor
    classes: Tensor


@dataclass(frozen=True)
class ClassBlocks:
    """This rank's classes that take part in a step, visited in blocks. A class's place is its position among them.

    num_classes: k. products: dtype of the operands of matrix products. chosen: sorted local numbers of the classes that
    take part, or None for all. pairs: (image, class) pairs that a visit treats apart; their classes take part.
    """

    num_classes: int
    products: torch.dtype
    chosen: Tensor | None = None
    pairs: Pairs | None = None
    block: int = BLOCK

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        """(place of the first class, rows) of each block: rows as a slice of all k, or as indices of the chosen."""
        for start in range(0, self.num_classes if self.chosen is None else len(self.chosen), self.block):
            stop = start + self.block
            if self.chosen is None:
                yield start, slice(start, min(stop, self.num_classes))
            else:
                yield start, self.chosen[start:stop]

    def pairs_within(self, start: int, width: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The pairs of one block: which they are, and their positions in the G x b block."""
        assert self.pairs is not None
        classes = self.pairs.classes
        places = classes if self.chosen is None else torch.searchsorted(self.chosen, classes)
        here = torch.nonzero((places >= start) & (places < start + width)).squeeze(1)
        return here, (self.pairs.rows[here], places[here] - start)


def finite(top_G: Tensor) -> Tensor:
    """A reference for exponentials: where a rank has no class that takes part, its top is -inf."""
    return top_G.clamp(min=torch.finfo(top_G.dtype).min)


def inverse_norms(weight_kD: Tensor) -> Tensor:
    """1/‖w‖ of each row, finite for a zero row. Shape k."""
    return torch.linalg.vector_norm(weight_kD.detach(), dim=1).clamp_(min=1e-12).reciprocal_()


def add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """into += left @ right; the operands may have a lower precision."""
    if left.dtype == into.dtype:
        into.addmm_(left, right)
    else:
        into.add_(left @ right)


def gradient_of(parameter: Tensor) -> Tensor:
    """Where a parameter's gradient accumulates: its `.grad`, made at first use."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def add_rows(gradient_kD: Tensor, rows: Rows, left_bG: Tensor, right_GD: Tensor) -> None:
    """gradient[rows] += left @ right."""
    if isinstance(rows, slice):
        add_product(gradient_kD[rows], left_bG, right_GD)
    else:
        gradient_kD.index_add_(0, rows, (left_bG @ right_GD).to(gradient_kD.dtype))


def add_at(gradient: Tensor, rows: Rows, value: Tensor) -> None:
    """gradient[rows] += value."""
    if isinstance(rows, slice):
        gradient[rows].add_(value)
    else:
        gradient.index_add_(0, rows, value.to(gradient.dtype))


class Keys(NamedTuple):
    """What scores l = x·wᵀ + b, or, with inverse norms, l = x·(w/‖w‖)ᵀ. weight: k x D, bias and inverse norms: k.

    factor_k: what the scores of each class are multiplied by, bias included. offset_k: a number that is then added to
    them and learns nothing; finite.
    """

    weight_kD: Tensor
    bias_k: Tensor | None
    inverse_norm_k: Tensor | None
    offset_k: Tensor | None = None
    factor_k: Tensor | None = None

    def scores(self, x_GD: Tensor, rows: Rows) -> Tensor:
        """G x b scores of some classes. Operands of the product in x's dtype; what accumulates is float32 at least."""
        l_Gb = (x_GD @ self.weight_kD[rows].to(x_GD.dtype).T).to(accumulate_dtype(x_GD))
        if self.inverse_norm_k is not None:
            l_Gb.mul_(self.inverse_norm_k[rows])
        if self.bias_k is not None:
            l_Gb.add_(self.bias_k[rows])
        if self.factor_k is not None:
            l_Gb.mul_(self.factor_k[rows])
        if self.offset_k is not None:
            l_Gb.add_(self.offset_k[rows])
        return l_Gb

    def learn(self, x_GD: Tensor, l_Gb: Tensor, dl_Gb: Tensor, rows: Rows, wants_weight: bool, dx_GD: Tensor) -> None:
        """Backward of `scores`: the gradient is added to dx and, where they want it, to all that learns. Uses up dl.

        Towards w, l = x·(w/‖w‖)ᵀ has (dlᵀ·x - ŵ Σ_g dl·l)/‖w‖: the part along w comes from the scores themselves.
        """
        low, weight_bD = x_GD.dtype, self.weight_kD[rows]
        if self.factor_k is not None:
            assert self.inverse_norm_k is None, "of a linear classifier alone"
            if self.factor_k.requires_grad:
                bare_Gb = self._replace(factor_k=None, offset_k=None).scores(x_GD, rows)
                add_at(gradient_of(self.factor_k), rows, (dl_Gb * bare_Gb).sum(0))
            dl_Gb.mul_(self.factor_k[rows])
        if self.bias_k is not None and self.bias_k.requires_grad:
            add_at(gradient_of(self.bias_k), rows, dl_Gb.sum(0))
        if self.inverse_norm_k is not None:
            if self.offset_k is not None:
                l_Gb = l_Gb - self.offset_k[rows]
            along_b = (dl_Gb * l_Gb).sum(0).mul_(self.inverse_norm_k[rows].square())
            dl_Gb.mul_(self.inverse_norm_k[rows])
        dl_low = dl_Gb.to(low)
        add_product(dx_GD, dl_low, weight_bD.to(low))
        if not wants_weight:
            return
        gradient_kD = gradient_of(self.weight_kD)
        add_rows(gradient_kD, rows, dl_low.T, x_GD)
        if self.inverse_norm_k is not None and isinstance(rows, slice):
            gradient_kD[rows].addcmul_(weight_bD, along_b[:, None], value=-1)
        elif self.inverse_norm_k is not None:
            add_at(gradient_kD, rows, weight_bD * -along_b[:, None])


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter_kD: Tensor, index: Tensor) -> Tensor:
        ctx.parameter, ctx.index = parameter_kD, index
        return parameter_kD[index]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        gradient_of(ctx.parameter).index_add_(0, ctx.index, grad)
        return None, None


def take_rows(parameter_kD: Tensor, index: Tensor) -> Tensor:
    """parameter[index], whose gradient touches those rows alone and not all k."""
    return _TakeRows.apply(parameter_kD, index) if parameter_kD.requires_grad else parameter_kD[index]
