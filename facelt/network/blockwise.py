"""What the backbones share: a stem and blocks in a row, and how they are run.

B: images, C: channels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from facelt.network.batch_norm import statistics_aside


class Blockwise(nn.Module):
    """A network up to its last feature map.

    channels: C of that map. width: channels of the first layer. norm_layer: makes a batch normalisation of the given
    number of channels. channels_last, checkpointing: how it is run, off until `backbone.switch`.
    """

    channels: int

    def __init__(self, width: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.width, self.norm_layer = width, norm_layer
        self.channels_last = self.checkpointing = False

    def begin(self, images_B3HW: Tensor) -> Tensor:
        """What comes before the blocks."""
        raise NotImplementedError

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks, from the images on."""
        raise NotImplementedError

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """B x 3 x H x W -> the last feature map, B x C x H' x W'."""
        if self.channels_last:
            images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        x = self.begin(images_B3HW)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks():
            x = _recomputed(block, x) if again else block(x)
        return x.contiguous()  # a small map: what follows need not know how the network was run

    def start_convolutions(self) -> None:
        """The weights of every convolution as He et al. 2015 start them, of their outputs."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), which keeps nothing but x for the backward pass and is done again there, collectives included."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), statistics_aside(block)

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
