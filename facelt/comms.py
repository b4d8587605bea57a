"""Ranks and what crosses between them: rank, size, differentiable gather and sums. Nothing at one rank.

One convention makes gradients unambiguous: the objective is the *sum over ranks* of the loss that each rank returns.
Every operation below is linear and its backward is its exact transpose:

    gather       rows of one rank -> rows of all        transpose: sum over ranks, own rows
    scatter_sum  rows of all, partial on each rank -> own rows of the sum      transpose: gather
    all_sum      partial on each rank -> the sum on all ranks       transpose: the sum over ranks
    gather_alike a part of each rank -> all parts on all ranks, from which every rank computes the same

B: rows of a rank, G: rows of all ranks (G = B x ranks; every rank has the same number).
"""

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
        if torch.compiler.is_compiling():
            return  # a graph would be traced anew whenever the figures have changed
        self.calls += 1
        self.bytes += tensor.numel() * tensor.element_size()


traffic = Traffic()

# Slurm's names for what a launcher would set.
_SLURM = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}
# Ranks on this machine, as deepspeed, torchrun and Slurm name them.
_LOCAL_RANKS = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")


def start(timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group (NCCL with CUDA, else gloo) and return this rank's device.

    Reads RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as a launcher sets them, or SLURM_* under srun;
    with neither, a group of one. CPU threads are the cores divided by the ranks of this machine, unless
    OMP_NUM_THREADS says otherwise.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        os.environ.update({name: os.environ[slurm] for name, slurm in _SLURM.items()})
        if "MASTER_ADDR" not in os.environ:
            raise ValueError(
                "srun started several tasks but MASTER_ADDR is not set: export the first node's address "
                "and a free MASTER_PORT, as jobs/train.sbatch does"
            )
    alone = "RANK" not in os.environ
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed insists on it
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        local_ranks = int(next((os.environ[n] for n in _LOCAL_RANKS if n in os.environ), 1))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_ranks))
    if not dist.is_initialized():
        group = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if alone else {}
        timeout = datetime.timedelta(minutes=timeout_minutes)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout, **group)
    return torch.device("cuda", local_rank) if cuda else torch.device("cpu")


def stop() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def share(value: object) -> object:
    """Rank 0's value (any picklable object) on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def first_error(error: str | None) -> str | None:
    """The first rank's error among all, or None: so that all ranks stop together and one speaks."""
    if world_size() == 1:
        return error
    errors: list[str | None] = [None] * world_size()
    dist.all_gather_object(errors, error)
    return next((e for e in errors if e is not None), None)


def together(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) on every rank; a ValueError of any becomes the first one's on all, so none waits for it."""
    answer, error = None, None
    try:
        answer = function(*args)
    except ValueError as mistake:
        error = str(mistake)
    if (first := first_error(error)) is not None:
        raise ValueError(first)
    return answer


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


class _GatherAlike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: Tensor) -> Tensor:
        return _gather(part[None])

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad[rank()] * world_size()


def gather_alike(part: Tensor) -> Tensor:
    """Each rank's tensor, stacked: ranks x …, on all of them. Differentiable, without communication backward.

    For a loss that every rank then computes alike and of which each returns 1/ranks: this rank's part of the gradient
    is what all ranks' equal shares would send to it.
    """
    return _GatherAlike.apply(part) if world_size() > 1 else part[None]


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


def table(row: Tensor) -> Tensor:
    """Each rank's tensor, stacked: ranks x …, on all of them. Not differentiable."""
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
