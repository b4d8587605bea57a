"""Batch normalisation whose statistics are those of the global batch, on any device and number of ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelt.parallel import collectives, group


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the images of all ranks: the same numbers at any number of ranks.

    Input B x C x H x W. Statistics are accumulated in float32 (float64 for float64 input); the running variance is
    the unbiased one, as in torch. At one rank it is torch's own.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training or group.world_size() == 1:
            return super().forward(x_BCHW)
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
