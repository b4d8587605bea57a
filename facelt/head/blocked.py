"""What the class-sharded parts share: classes visited in blocks, what is made of a block, gradients in place.

A gradient of a class-sharded parameter is added into its `.grad` where it stands, block by block; its memory is kept
between steps: at these sizes fresh pages for a gradient cost as much as the matrix product that fills it, and
accumulating over micro-batches needs no second copy. To autograd such a parameter therefore returns no gradient.
No loop over blocks waits for the device.

G: rows of all ranks, D: embedding size, k: classes of this rank, b: classes of a block.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from facelt.head.products import Products, add_product, multiply, operand

# Classes whose first rows are drawn at once, and of a block where nothing learns.
BLOCK = 4096

# Scores of a block in training: on a processor they and the block's rows stay near a core, on a GPU they are worth the
# launches of their kernels.
CELLS_CPU, CELLS_CUDA = 2**18, 2**23

Rows = slice | Tensor


def block_for(x_GD: Tensor) -> int:
    """How many classes make a block beside so many rows."""
    cells = CELLS_CUDA if x_GD.device.type == "cuda" else CELLS_CPU
    return max(cells // max(len(x_GD), 1) // 64 * 64, 256)


def accumulate_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays; everything else accumulates in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class Reused:
    """Memory that blocks and kept scores use again, by name: on a processor fresh pages cost more than filling them.

    What is taken is the taker's until it is given back. On a GPU torch's allocator does the same for all.
    """

    def __init__(self) -> None:
        self._spare: dict[str, Tensor] = {}

    def take(self, name: str, cells: int, like: Tensor) -> Tensor:
        """So many numbers, at least, of the dtype in which `like` accumulates, on its device; they hold anything."""
        spare, dtype = self._spare.pop(name, None), accumulate_dtype(like)
        if spare is None or len(spare) < cells or (spare.dtype, spare.device) != (dtype, like.device):
            return torch.empty(cells, dtype=dtype, device=like.device)
        return spare

    def give(self, name: str, taken: Tensor) -> None:
        """Back what was taken by this name."""
        if taken.device.type != "cuda":
            self._spare[name] = taken


class Pairs(NamedTuple):
    """(image, class) pairs, at most one for a row: rows among G, and local class numbers; -1: no pair."""

    rows: Tensor
    classes: Tensor


@dataclass(frozen=True)
class ClassBlocks:
    """This rank's classes that take part in a step, visited in blocks. A class's place is its position among them.

    num_classes: k. products: what operands of matrix products are rounded to. chosen: sorted local numbers of the
    classes that take part, or None for all. pairs: (image, class) pairs that a visit treats apart; their classes take
    part. kept_bytes: the largest matrix of scores, of rows x classes, that is kept for the backward pass.
    """

    num_classes: int
    products: Products
    chosen: Tensor | None = None
    pairs: Pairs | None = None
    block: int = BLOCK
    kept_bytes: int = 0
    reused: Reused = field(default_factory=Reused)

    def __len__(self) -> int:
        """How many classes take part."""
        return self.num_classes if self.chosen is None else len(self.chosen)

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        """(place of the first class, rows) of each block: rows as a slice of all k, or as indices of the chosen."""
        for start in range(0, len(self), self.block):
            stop = start + self.block
            if self.chosen is None:
                yield start, slice(start, min(stop, self.num_classes))
            else:
                yield start, self.chosen[start:stop]

    def width(self, start: int) -> int:
        """b of the block that starts at this place."""
        return min(self.block, len(self) - start)

    def pair_places(self, G: int) -> Tensor:
        """The place of each row's pair, -1 where it has none. G x 1."""
        assert self.pairs is not None
        rows, classes = self.pairs
        places = classes
        if self.chosen is not None:
            places = torch.where(classes < 0, classes, torch.searchsorted(self.chosen, classes))
        return classes.new_full((G,), -1).index_copy_(0, rows, places)[:, None]


class Within(NamedTuple):
    """The pairs of a block: for each row whether it has one here, and in which column (any, where not). G x 1."""

    here_G1: Tensor
    column_G1: Tensor

    @classmethod
    def of(cls, place_G1: Tensor, start: int, width: int) -> "Within":
        """place_G1: `ClassBlocks.pair_places`. start, width: of the block."""
        column_G1 = place_G1 - start
        return cls((column_G1 >= 0) & (column_G1 < width), column_G1.clamp_(0, width - 1))

    def exchange(self, block_Gb: Tensor, value: Tensor | float) -> Tensor:
        """Put a value, or one for each row (G x 1), where a pair is. Returns what stood in those columns, G x 1."""
        before_G1 = block_Gb.gather(1, self.column_G1)
        block_Gb.scatter_(1, self.column_G1, torch.where(self.here_G1, value, before_G1))
        return before_G1


class BlockMatrix:
    """Numbers for every row and class, G x b at a time: one block in the place of another, or all of them (`whole`)."""

    def __init__(self, name: str, blocks: ClassBlocks, x_GD: Tensor, whole: bool = False) -> None:
        self.name, self.blocks, self.G, self.whole = name, blocks, len(x_GD), whole
        classes = len(blocks) if whole else min(blocks.block, len(blocks))
        self._cells = blocks.reused.take(name, self.G * classes, x_GD)

    @classmethod
    def of_scores(cls, blocks: ClassBlocks, x_GD: Tensor) -> "BlockMatrix":
        """For scores of these rows: all of them, where that is within `kept_bytes`."""
        size = len(x_GD) * len(blocks) * accumulate_dtype(x_GD).itemsize
        return cls("scores", blocks, x_GD, size <= blocks.kept_bytes)

    def at(self, start: int) -> Tensor:
        """That of the block that starts at this place: G x b, contiguous."""
        first, width = self.G * start if self.whole else 0, self.blocks.width(start)
        return self._cells[first : first + self.G * width].view(self.G, width)

    def give_back(self) -> None:
        """Its memory; it may not be used any more."""
        self.blocks.reused.give(self.name, self._cells)


def finite(top_G: Tensor) -> Tensor:
    """A reference for exponentials: where a rank has no class that takes part, its top is -inf."""
    return top_G.clamp(min=torch.finfo(top_G.dtype).min)


def inverse_norms(weight_kD: Tensor) -> Tensor:
    """1/‖w‖ of each row, finite for a zero row. Shape k."""
    return torch.linalg.vector_norm(weight_kD.detach(), dim=1).clamp_(min=1e-12).reciprocal_()


def put(into_k: Tensor, rows: Rows, value_b: Tensor) -> None:
    """into[rows] = value."""
    if isinstance(rows, slice):
        into_k[rows] = value_b
    else:
        into_k.index_copy_(0, rows, value_b)


# The memory of gradients that were used up, by parameter.
_used_up = WeakTensorKeyDictionary()
# Of gradients and of such memory: the rows outside which they are zero. Of others nothing is known.
_written = WeakTensorKeyDictionary()


def release_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Take gradients away that were used up. Their memory serves the next ones, without zeros to begin with."""
    for parameter in parameters:
        if parameter.grad is not None:
            _used_up[parameter] = parameter.grad
            parameter.grad = None


def _memory_for(parameter: Tensor) -> Tensor:
    """Memory for a gradient; it holds anything."""
    spare = _used_up.pop(parameter, None)
    if spare is None or (spare.shape, spare.dtype, spare.device) != (
        parameter.shape,
        parameter.dtype,
        parameter.device,
    ):
        return torch.empty_like(parameter)
    return spare


def fresh_gradient(parameter: Tensor) -> Tensor:
    """A new `.grad` of a parameter that has none. It holds anything: whoever asks writes all of it."""
    parameter.grad = _memory_for(parameter)
    _written.pop(parameter.grad, None)
    return parameter.grad


def gradient_of(parameter: Tensor) -> Tensor:
    """Where a parameter's gradient accumulates: its `.grad`, made at first use."""
    if parameter.grad is None:
        return fresh_gradient(parameter).zero_()
    _written.pop(parameter.grad, None)
    return parameter.grad


def gradient_at(parameter: Tensor, index: Tensor) -> Tensor:
    """`gradient_of` for one who adds to these rows alone: a pass over all rows for zeros is spared next time."""
    gradient = parameter.grad
    if gradient is None:
        gradient = parameter.grad = _memory_for(parameter)
        before = _written.get(gradient)
        if before is None:
            gradient.zero_()
        for rows in before or ():
            gradient.index_fill_(0, rows, 0)
        _written[gradient] = []
    if gradient in _written:
        _written[gradient].append(index)
    return gradient


class RowGradient:
    """Where the gradient of k x D rows accumulates during one loop over blocks, in which each block comes once.

    Where there is no gradient yet, it is written block by block instead of added to zeros.
    """

    def __init__(self, parameter_kD: Tensor, blocks: ClassBlocks) -> None:
        self.parameter_kD = parameter_kD
        self.low: Products = blocks.products
        self.fresh = parameter_kD.grad is None and blocks.chosen is None
        self.gradient_kD = fresh_gradient(parameter_kD) if self.fresh else gradient_of(parameter_kD)

    def add(self, rows: Rows, left_bG: Tensor, right_GD: Tensor, less_b: Tensor | None = None) -> None:
        """gradient[rows] += left @ right - less · parameter[rows]."""
        if not isinstance(rows, slice):
            change_bD = multiply(left_bG, right_GD, self.low)
            if less_b is not None:
                change_bD.addcmul_(self.parameter_kD[rows], less_b[:, None], value=-1)
            self.gradient_kD.index_add_(0, rows, change_bD.to(self.gradient_kD.dtype))
            return
        part_bD = self.gradient_kD[rows]
        if self.fresh:
            multiply(left_bG, right_GD, self.low, part_bD)
        else:
            add_product(part_bD, left_bG, right_GD, self.low)
        if less_b is not None:
            part_bD.addcmul_(self.parameter_kD[rows], less_b[:, None], value=-1)


def add_at(gradient: Tensor, rows: Rows, value: Tensor) -> None:
    """gradient[rows] += value."""
    if isinstance(rows, slice):
        gradient[rows].add_(value)
    else:
        gradient.index_add_(0, rows, value.to(gradient.dtype))


class Towards(NamedTuple):
    """What a backward pass over blocks adds to: dx of the rows, and the weight's gradient, where that learns.

    x_GD: the rows, as products take them. low: what operands are rounded to.
    """

    x_GD: Tensor
    low: Products
    dx_GD: Tensor
    weight: RowGradient | None


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

    def scores(self, x_GD: Tensor, rows: Rows, low: Products | None = None, out: Tensor | None = None) -> Tensor:
        """G x b scores of some classes. low: of the product; None: x's dtype. What accumulates is float32 at least."""
        return self.finish(multiply(x_GD, self.weight_kD[rows].T, low or x_GD.dtype, out), rows)

    def finish(self, l_Gb: Tensor, rows: Rows) -> Tensor:
        """The scores, in the place of the bare products x·wᵀ. rows: the classes of these, b, or G x b of their own."""
        if self.inverse_norm_k is not None:
            l_Gb.mul_(self.inverse_norm_k[rows])
        if self.bias_k is not None:
            l_Gb.add_(self.bias_k[rows])
        if self.factor_k is not None:
            l_Gb.mul_(self.factor_k[rows])
        if self.offset_k is not None:
            l_Gb.add_(self.offset_k[rows])
        return l_Gb

    def scores_of(self, x_GD: Tensor, classes_GC: Tensor) -> Tensor:
        """Scores of a few classes of each row, nothing rounded. G x C."""
        return self.finish((self.weight_kD[classes_GC] * x_GD[:, None]).sum(2), classes_GC)

    def learn(self, l_Gb: Tensor, dl_Gb: Tensor, rows: Rows, towards: Towards) -> None:
        """Backward of `scores`: adds the gradient to dx and to all that learns. Uses up l and dl.

        Towards w, l = x·(w/‖w‖)ᵀ has (dlᵀ·x - ŵ Σ_g dl·l)/‖w‖: the part along w comes from the scores themselves.
        """
        x_GD, low, dx_GD, weight = towards
        along_b = None
        if self.factor_k is not None:
            assert self.inverse_norm_k is None, "of a linear classifier alone"
            if self.factor_k.requires_grad:
                bare_Gb = self._replace(factor_k=None, offset_k=None).scores(x_GD, rows, low)
                add_at(gradient_of(self.factor_k), rows, (dl_Gb * bare_Gb).sum(0))
            dl_Gb.mul_(self.factor_k[rows])
        if self.bias_k is not None and self.bias_k.requires_grad:
            add_at(gradient_of(self.bias_k), rows, dl_Gb.sum(0))
        if self.inverse_norm_k is not None:
            inverse_b = self.inverse_norm_k[rows]
            if weight is not None:
                if self.offset_k is not None:
                    l_Gb.sub_(self.offset_k[rows])
                along_b = l_Gb.mul_(dl_Gb).sum(0).mul_(inverse_b.square())
            dl_Gb.mul_(inverse_b)
        dl_low = operand(dl_Gb, low)
        add_product(dx_GD, dl_low, self.weight_kD[rows], low)
        if weight is not None:
            weight.add(rows, dl_low.T, x_GD, along_b)


class Kernels(NamedTuple):
    """What may stand in the place of loops over blocks, see `kernels.choice`.

    scores: of `classifier.softmax_scores`. read: of `memory.CentroidMemory.read`.
    """

    scores: Callable[..., tuple[Tensor, Tensor, Tensor]]
    read: Callable[..., tuple[Tensor, Tensor, Tensor]]


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter_kD: Tensor, index: Tensor) -> Tensor:
        ctx.parameter, ctx.index = parameter_kD, index
        return parameter_kD[index]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        gradient_at(ctx.parameter, ctx.index).index_add_(0, ctx.index, grad)
        return None, None


def take_rows(parameter_kD: Tensor, index: Tensor) -> Tensor:
    """parameter[index], whose gradient touches those rows alone and not all k."""
    return _TakeRows.apply(parameter_kD, index) if parameter_kD.requires_grad else parameter_kD[index]
