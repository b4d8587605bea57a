"""ResNet (He et al. 2016) with torchvision's parameter names."""

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from facelt.network.blockwise import Blockwise

DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}


class ResNet(Blockwise):
    """A ResNet of 10 to 152 layers up to its last feature map; parameters are named as in torchvision, without `fc`.

    name: a key of DEPTHS. width: channels of the first layer (64 in the original).
    stem: "imagenet" (7x7 stride 2 and pooling: a map of 1/32 of the image) or
    "face" (3x3 stride 1, no pooling: a map of 1/8, as face recognisers at 112x112 have it).
    norm_layer: makes a batch normalisation of the given number of channels.
    """

    def __init__(self, name: str, width: int, stem: str, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__(width, norm_layer)
        block, depths = DEPTHS[name]
        self.inplanes = width
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._layer(block, width, depths[0], stride=1)
        self.layer2 = self._layer(block, width * 2, depths[1], stride=2)
        self.layer3 = self._layer(block, width * 4, depths[2], stride=2)
        self.layer4 = self._layer(block, width * 8, depths[3], stride=2)
        self.channels = self.inplanes
        self.start_convolutions()

    def _layer(self, block: type[BasicBlock] | type[Bottleneck], planes: int, depth: int, stride: int) -> nn.Sequential:
        blocks = []
        for i in range(depth):
            step = stride if i == 0 else 1
            downsample = None
            if step != 1 or self.inplanes != planes * block.expansion:
                downsample = nn.Sequential(
                    nn.Conv2d(self.inplanes, planes * block.expansion, 1, stride=step, bias=False),
                    self.norm_layer(planes * block.expansion),
                )
            blocks.append(block(self.inplanes, planes, step, downsample, norm_layer=self.norm_layer))
            self.inplanes = planes * block.expansion
        return nn.Sequential(*blocks)

    def begin(self, images_B3HW: Tensor) -> Tensor:
        """The stem."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images_B3HW))))

    def blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, from the images on."""
        return itertools.chain(self.layer1, self.layer2, self.layer3, self.layer4)
