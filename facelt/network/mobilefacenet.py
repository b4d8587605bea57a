"""MobileFaceNet (Chen et al. 2018) with the parameter names of insightface's arcface_torch, which widens it.

Bottlenecks are those of MobileNetV2, with PReLU: 1x1, depthwise 3x3, and 1x1 without an activation.
"""

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from facelt.network.blockwise import Blockwise

NormLayer = Callable[[int], nn.Module]
CHANNELS = 512  # of the last map, whatever the width
# Between the bottlenecks a map has `width` channels, later twice as many; within them these, whatever the width.
_EXPANDED = (128, 128, 256, 256, 512, 256)
_REPEATED = (4, 6, 2)  # bottlenecks in a row that keep the map's size, after each that halves it


class Convolution(nn.Module):
    """A convolution and a batch normalisation, and with active a PReLU, under the name `layers`."""

    def __init__(self, convolution: nn.Conv2d, norm_layer: NormLayer, active: bool = True) -> None:
        super().__init__()
        channels = convolution.out_channels
        activation = [nn.PReLU(channels)] if active else []
        self.layers = nn.Sequential(convolution, norm_layer(channels), *activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Bottleneck(nn.Module):
    """The three convolutions, with expanded channels between them; stride 1 adds what came in."""

    def __init__(self, channels: tuple[int, int], expanded: int, stride: int, norm_layer: NormLayer) -> None:
        super().__init__()
        inplanes, planes = channels
        depthwise = nn.Conv2d(expanded, expanded, 3, stride=stride, padding=1, groups=expanded, bias=False)
        self.residual = stride == 1
        self.layers = nn.Sequential(
            Convolution(nn.Conv2d(inplanes, expanded, 1, bias=False), norm_layer),
            Convolution(depthwise, norm_layer),
            Convolution(nn.Conv2d(expanded, planes, 1, bias=False), norm_layer, active=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Repeated(nn.Module):
    """Bottlenecks in a row, under the name `layers`."""

    def __init__(self, depth: int, channels: int, expanded: int, norm_layer: NormLayer) -> None:
        super().__init__()
        row = (Bottleneck((channels, channels), expanded, 1, norm_layer) for _ in range(depth))
        self.layers = nn.Sequential(*row)


class MobileFaceNet(Blockwise):
    """MobileFaceNet up to its last feature map, 512 channels of 1/16 of the image's side; then `neck.DepthwiseNeck`.

    width: channels of the first layer, a multiple of 64: 64 in the paper, 128 in insightface's `mbf`.
    norm_layer: makes a batch normalisation of the given number of channels.
    """

    def __init__(self, width: int, norm_layer: NormLayer) -> None:
        super().__init__(width, norm_layer)
        grouped = nn.Conv2d(width, width, 3, padding=1, groups=64, bias=False)
        self.layers = nn.ModuleList(
            [
                Convolution(nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), norm_layer),
                Convolution(grouped, norm_layer),
            ]
        )
        ends = (width, width, width * 2, width * 2)
        for i, depth in enumerate(_REPEATED):
            halving, keeping = _EXPANDED[2 * i : 2 * i + 2]
            self.layers.append(Bottleneck((ends[i], ends[i + 1]), halving, 2, norm_layer))
            self.layers.append(Repeated(depth, ends[i + 1], keeping, norm_layer))
        self.conv_sep = Convolution(nn.Conv2d(width * 2, CHANNELS, 1, bias=False), norm_layer)
        self.channels = CHANNELS
        self.start_convolutions()

    def begin(self, images_B3HW: Tensor) -> Tensor:
        """The two convolutions before the bottlenecks."""
        return self.layers[1](self.layers[0](images_B3HW))

    def blocks(self) -> Iterator[nn.Module]:
        """The bottlenecks, from the images on, and the convolution after them."""
        rows = (part.layers if isinstance(part, Repeated) else [part] for part in self.layers[2:])
        return itertools.chain(*rows, [self.conv_sep])
