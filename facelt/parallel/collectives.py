"""Ranks and what crosses between them: rank, size, differentiable gather and sums. Nothing at one rank.

One convention makes gradients unambiguous: the objective is the *sum over ranks* of the loss that each rank returns.
Every operation below is linear and its backward is its exact transpose:

    gather       rows of one rank -> rows of all        transpose: sum over ranks, own rows
    scatter_sum  rows of all, partial on each rank -> own rows of the sum      transpose: gather
    all_sum      partial on each rank -> the sum on all ranks       transpose: the sum over ranks
    sum_alike, max_alike   the sum or maximum on all ranks, from which every rank computes the same

B: rows of a rank, G: rows of all ranks (G = B x ranks; every rank has the same number).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from facelt.parallel import heartbeat
from facelt.parallel.group import rank, world_size


@dataclass
class Traffic:
    """What this process handed to collectives since `reset`: number of calls and bytes of their inputs.

    Those within a compiled network go uncounted.
    """

    calls: int = 0
    bytes: int = 0

    def reset(self) -> None:
        self.calls = self.bytes = 0

    def count(self, tensor: Tensor) -> None:
        """A collective is about to begin; whoever watches this rank is told too."""
        if torch.compiler.is_compiling():
            return  # a graph would be traced anew whenever the figures have changed
        heartbeat.mark("collective")
        self.calls += 1
        self.bytes += tensor.numel() * tensor.element_size()


traffic = Traffic()


def _gather(rows: Tensor) -> Tensor:
    rows = rows.contiguous()
    traffic.count(rows)
    out = rows.new_empty((world_size() * rows.shape[0], *rows.shape[1:]))
    dist.all_gather_single(out, rows)
    return out


def _sum(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    traffic.count(total)
    dist.all_reduce(total)
    return total


def _scatter_sum(rows: Tensor) -> Tensor:
    if dist.get_backend() == "nccl":
        rows = rows.contiguous()
        traffic.count(rows)
        own = rows.new_empty((rows.shape[0] // world_size(), *rows.shape[1:]))
        dist.reduce_scatter_single(own, rows)
        return own
    return _sum(rows).tensor_split(world_size())[rank()]  # gloo has no reduce-scatter


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return _gather(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _scatter_sum(grad)


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return _scatter_sum(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _gather(grad)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return _sum(tensor)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _sum(grad)


class _Alike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        return reduce(part)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * world_size(), None


def sum_alike(part: Tensor) -> Tensor:
    """The sum over ranks, on all of them. Differentiable, without communication backward.

    For a loss that every rank then computes alike and of which each returns 1/ranks: this rank's part of the gradient
    is what all ranks' equal shares would send to it.
    """
    return _Alike.apply(part, _sum) if world_size() > 1 else part


def max_alike(part: Tensor) -> Tensor:
    """The elementwise maximum over ranks, on all of them, where all ranks but one have -inf; as `sum_alike` otherwise.

    Gradient arrives at the -inf too: whoever put them there drops it.
    """
    return _Alike.apply(part, all_max) if world_size() > 1 else part


def gather(rows: Tensor) -> Tensor:
    """B x … on each rank -> G x … on all, in rank order. Differentiable."""
    return _Gather.apply(rows) if world_size() > 1 else rows


def scatter_sum(rows: Tensor) -> Tensor:
    """G x … partial on each rank -> this rank's B x … of the sum over ranks. Differentiable."""
    return _ScatterSum.apply(rows) if world_size() > 1 else rows


def own_rows(rows: Tensor) -> Tensor:
    """Of G rows that all ranks hold, those of this rank."""
    return rows.tensor_split(world_size())[rank()]


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, on all of them. Differentiable."""
    return _AllSum.apply(tensor) if world_size() > 1 else tensor


def all_max(tensor: Tensor) -> Tensor:
    """The elementwise maximum over ranks, on all of them. Not differentiable."""
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    traffic.count(tensor)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def first(holds: Tensor) -> Tensor:
    """Of the ranks where a condition holds, the lowest keeps it: elementwise, bool. Not differentiable."""
    if world_size() == 1:
        return holds
    rank_or_0 = torch.where(holds, world_size() - rank(), 0).to(torch.int32)
    return holds & (all_max(rank_or_0) == rank_or_0)


def table(row: Tensor) -> Tensor:
    """Each rank's tensor, stacked: ranks x …, on all of them. Not differentiable.

    It grows with the number of ranks: of a step of training, take `all_max`, `all_sum` and `first` instead.
    """
    row = row.detach()
    return _gather(row[None]) if world_size() > 1 else row[None]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def leave_averaging(tensor: Tensor) -> Tensor:
    """The tensor itself, with its gradient multiplied by the number of ranks.

    Put between a module whose gradients are *averaged* over ranks and an objective that is *summed* over them.
    """
    return _ScaleGradient.apply(tensor, float(world_size())) if world_size() > 1 else tensor
