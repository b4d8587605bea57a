"""IResNet, the network of ArcFace (Deng et al. 2019, section 3.1): residual blocks that begin with batch normalisation.

Parameters are named as in insightface's arcface_torch. AdaFace and CVLface have the same blocks, but for the first.
"""

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from facelt.network.blockwise import Blockwise

_OF_LAYERS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 14, 3], 100: [3, 13, 30, 3], 200: [6, 26, 60, 6]}
# "ir…" are AdaFace's, which counts a layer more than insightface in the fourth.
DEPTHS = {f"iresnet{n}": depths for n, depths in _OF_LAYERS.items()}
DEPTHS |= {"ir18": _OF_LAYERS[18], "ir34": _OF_LAYERS[34], "ir50": _OF_LAYERS[50], "ir101": _OF_LAYERS[100]}


class Block(nn.Module):
    """shortcut(x) + BN·conv·PReLU·BN·conv·BN(x), both convolutions 3x3, the second with the stride.

    project: whether the shortcut is a 1x1 convolution and a batch normalisation; else it is x at every stride-th place.
    """

    def __init__(
        self, inplanes: int, planes: int, stride: int, project: bool, norm_layer: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.bn1 = norm_layer(inplanes)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, padding=1, bias=False)
        self.bn2 = norm_layer(planes)
        self.prelu = nn.PReLU(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn3 = norm_layer(planes)
        self.stride, self.downsample = stride, None
        if project:
            convolution = nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, norm_layer(planes))

    def forward(self, x: Tensor) -> Tensor:
        """B x inplanes x H x W -> B x planes x ⌈H/stride⌉ x ⌈W/stride⌉."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.downsample is None else self.downsample(x)
        return y + shortcut


class IResNet(Blockwise):
    """An IResNet up to its last feature map, of 1/16 of the image's side. What follows is `neck.ArcFaceNeck`.

    name: a key of DEPTHS. width: channels of the first layer (64 in the original).
    norm_layer: makes a batch normalisation of the given number of channels.
    """

    def __init__(self, name: str, width: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__(width, norm_layer)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = norm_layer(width)
        self.prelu = nn.PReLU(width)
        self.channels = width
        projects_first = name.startswith("iresnet")
        depths = DEPTHS[name]
        self.layer1 = self._layer(width, depths[0], projects_first)
        self.layer2 = self._layer(width * 2, depths[1])
        self.layer3 = self._layer(width * 4, depths[2])
        self.layer4 = self._layer(width * 8, depths[3])
        self.start_convolutions()

    def _layer(self, planes: int, depth: int, project: bool = True) -> nn.Sequential:
        first = Block(self.channels, planes, 2, project, self.norm_layer)
        self.channels = planes
        return nn.Sequential(first, *(Block(planes, planes, 1, False, self.norm_layer) for _ in range(depth - 1)))

    def begin(self, images_B3HW: Tensor) -> Tensor:
        """The stem."""
        return self.prelu(self.bn1(self.conv1(images_B3HW)))

    def blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, from the images on."""
        return itertools.chain(self.layer1, self.layer2, self.layer3, self.layer4)
