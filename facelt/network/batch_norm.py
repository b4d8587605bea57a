"""Batch normalisation whose statistics are those of the global batch, on any device and number of ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelt.parallel import collectives, group


class Running(NamedTuple):
    """What a layer remembers, C each, and how: moved by `momentum` where it stands. eps: added to a variance."""

    mean_C: Tensor | None
    var_C: Tensor | None
    momentum: float
    eps: float


class FusedBatchNorm(torch.autograd.Function):
    """Batch normalisation over all ranks by torch's CUDA kernels, those of its SyncBatchNorm: five for some thirty
    operations, and nothing kept for the backward pass but the input in its own precision.

    One collective forward, of each rank's mean and 1/deviation, and one backward, of Σ dy and Σ dy·(x - mean). As every
    rank has as many images, the host knows all counts: SyncBatchNorm itself waits for the device to tell them.
    The gradients of weight and bias are those of this rank's images, for an objective summed over ranks.
    """

    @staticmethod
    def forward(ctx, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, running: Running) -> Tensor:
        ctx.layout = _layout(x_BCHW)
        x_BCHW = x_BCHW.contiguous(memory_format=ctx.layout)
        ranks, share = group.world_size(), x_BCHW.numel() // x_BCHW.shape[1]
        stats_2C = torch.stack(torch.batch_norm_stats(x_BCHW, running.eps))
        means_RC, inverse_deviations_RC = collectives.table(stats_2C).unbind(1)
        counts_R = means_RC.new_full((ranks,), share)
        remembered = (running.mean_C, running.var_C, running.momentum, running.eps)
        mean_C, inverse_deviation_C = torch.batch_norm_gather_stats_with_counts(
            x_BCHW, means_RC, inverse_deviations_RC, *remembered, counts_R
        )
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, inverse_deviation_C)
        return torch.batch_norm_elemt(x_BCHW, weight_C, bias_C, mean_C, inverse_deviation_C, running.eps)

    @staticmethod
    def backward(ctx, dy_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_BCHW, weight_C, mean_C, inverse_deviation_C = ctx.saved_tensors
        dy_BCHW = dy_BCHW.contiguous(memory_format=ctx.layout)
        known = (mean_C, inverse_deviation_C, weight_C)
        dy_C, along_C, dweight_C, dbias_C = torch.batch_norm_backward_reduce(dy_BCHW, x_BCHW, *known, True, True, True)
        dy_C, along_C = collectives.all_sum(torch.stack([dy_C, along_C])).unbind()
        share = x_BCHW.numel() // x_BCHW.shape[1]
        counts_R = torch.full((group.world_size(),), share, dtype=torch.int32, device=x_BCHW.device)
        return (
            torch.batch_norm_backward_elemt(dy_BCHW, x_BCHW, *known, dy_C, along_C, counts_R),
            dweight_C,
            dbias_C,
            None,
        )


def _layout(x_BCHW: Tensor) -> torch.memory_format:
    last = x_BCHW.is_contiguous(memory_format=torch.channels_last) and not x_BCHW.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the images of all ranks: the same numbers at any number of ranks.

    Input B x C x H x W. Statistics are accumulated in float32 (float64 for float64 input); the running variance is
    the unbiased one, as in torch. At one rank it is torch's own; at several on CUDA, torch's kernels.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training or group.world_size() == 1:
            return super().forward(x_BCHW)
        if x_BCHW.is_cuda and not torch.compiler.is_compiling():  # a compiler fuses what is written out
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            running = Running(self.running_mean, self.running_var, self.momentum, self.eps)
            return FusedBatchNorm.apply(x_BCHW, self.weight, self.bias, running)
        return self.written_out(x_BCHW)

    def written_out(self, x_BCHW: Tensor) -> Tensor:
        """The same in operations of torch that any device has, some thirty of them with their gradients."""
        B, C, H, W = x_BCHW.shape
        x = x_BCHW if x_BCHW.dtype == torch.float64 else x_BCHW.float()
        ranks, share = group.world_size(), B * H * W
        n = share * ranks
        # Each rank's mean and squared deviations, then those of all: one collective, and no E[x²] - E[x]² that cancels.
        own_mean_C = x.mean((0, 2, 3))
        own_deviation_C = (x - own_mean_C.view(1, C, 1, 1)).square().sum((0, 2, 3))
        means_RC, deviations_RC = collectives.gather(torch.stack([own_mean_C, own_deviation_C])[None]).unbind(1)
        mean_C = means_RC.mean(0)
        var_C = (deviations_RC.sum(0) + share * (means_RC - mean_C).square().sum(0)) / n
        running_mean, running_var, momentum = self.running_mean, self.running_var, self.momentum
        assert running_mean is not None
        assert running_var is not None
        assert momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((var_C * (n / max(n - 1, 1))).to(running_var.dtype), momentum)
        scale_C = torch.rsqrt(var_C + self.eps) * self.weight
        shift_C = self.bias - mean_C * scale_C
        return (x * scale_C.view(1, C, 1, 1) + shift_C.view(1, C, 1, 1)).to(x_BCHW.dtype)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that always uses its running statistics and never moves them; its scale and shift still learn."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.batch_norm(
            x_BCHW, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


@contextmanager
def statistics_aside(module: nn.Module) -> Iterator[None]:
    """Within, the batch normalisations of a module move copies of their running statistics, which are dropped after.

    For a forward pass that is done again: the same numbers come out, and the batch counts once.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    own = [(layer, name, buffer) for layer in layers for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in own:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in own:
            setattr(layer, name, buffer)


KINDS: dict[str, type[nn.BatchNorm2d]] = {
    "synchronised": SynchronisedBatchNorm2d,
    "local": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
}
