"""ResNet with torchvision's parameter names, and the embedding on top of it.

B: images, C: channels, D: embedding size.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from facelt.errors import UserError
from facelt.network.batch_norm import KINDS, statistics_aside

DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}


class ResNet(nn.Module):
    """A ResNet of 10 to 152 layers up to its last feature map; parameters are named as in torchvision, without `fc`.

    name: a key of DEPTHS. width: channels of the first layer (64 in the original).
    stem: "imagenet" (7x7 stride 2 and pooling: a map of 1/32 of the image) or
    "face" (3x3 stride 1, no pooling: a map of 1/8, as face recognisers at 112x112 have it).
    norm_layer: makes a batch normalisation of the given number of channels.
    channels_last, checkpointing: off until `switch`.
    """

    def __init__(self, name: str, width: int, stem: str, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        block, depths = DEPTHS[name]
        self.norm_layer = norm_layer
        self.channels_last = self.checkpointing = False
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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

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

    def blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, from the images on."""
        return itertools.chain(self.layer1, self.layer2, self.layer3, self.layer4)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """B x 3 x H x W -> the last feature map, B x C x H' x W'."""
        if self.channels_last:
            images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(images_B3HW))))
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks():
            x = _recomputed(block, x) if again else block(x)
        return x.contiguous()  # a small map: what follows need not know how the network was run


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), which keeps nothing but x for the backward pass and is done again there, collectives included."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), statistics_aside(block)

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


class Neck(nn.Module):
    """Average pooling and a linear map to the embedding: the direct feature.

    kind: "linear"; "relu" after it, as the authors' added layer has it; or "batch_norm" after it.
    """

    def __init__(self, channels: int, embedding_size: int, kind: str, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, embedding_size)
        after = {"linear": nn.Identity, "relu": nn.ReLU, "batch_norm": lambda: norm_layer(embedding_size)}
        self.after = after[kind]()

    def forward(self, map_BCHW: Tensor) -> Tensor:
        v_BD11 = self.fc(map_BCHW.mean((2, 3)))[:, :, None, None]
        return self.after(v_BD11).flatten(1)


def build(name: str, width: int, stem: str, batch_norm: str) -> ResNet:
    """A ResNet whose batch normalisation is a key of `batch_norm.KINDS`."""
    return ResNet(name, width, stem, KINDS[batch_norm])


def switch(net: ResNet, compile: bool, channels_last: bool, checkpointing: bool) -> None:
    """Choose how a network is run, in place: the numbers and the names of its tensors stay the same.

    compile: torch.compile, which fuses normalisation and activation, at its first batch. channels_last: maps in the
    order B x H x W x C. checkpointing: residual blocks keep their input alone and are run again in the backward pass.
    Raises UserError where there is no compiler for `compile`, or too few channels for channels_last.
    """
    if channels_last and net.conv1.out_channels < 8:
        # oneDNN's gradient of a strided 1x1 convolution writes past its memory there.
        raise UserError(f"backbone.channels_last with width {net.conv1.out_channels}; expected width 8 or more")
    net.channels_last, net.checkpointing = channels_last, checkpointing
    if not compile:
        return
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise UserError(f"backbone.compile needs the C++ compiler {compiler}, not found; install it, or set it false")
    # The compiler cannot look through a block that is done again: then each is compiled by itself.
    for part in net.blocks() if checkpointing else (net,):
        part.compile()


def load_pretrained(backbone: ResNet, path: str | Path) -> None:
    """Load a torchvision state dict (.pth or .safetensors; `fc` is left out) into the backbone, in place.

    Raises UserError when the file is not such a state dict or does not fit the network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--init {path}: no such file; expected a torchvision ResNet state dict (.pth, .safetensors)")
    try:
        read: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        state = {k: v for k, v in read.get("state_dict", read).items() if not k.startswith("fc.")}
    except Exception as error:  # whatever a file that is none makes the readers stumble over
        kind = type(error).__name__
        raise UserError(f"--init {path}: not a state dict ({kind}); expected .pth or .safetensors") from None
    own = backbone.state_dict()
    for name in own:
        if name not in state:
            if name.endswith("num_batches_tracked"):
                state[name] = own[name]
                continue
            raise UserError(f"--init {path}: lacks {name}; expected torchvision's names of this ResNet")
        if state[name].shape != own[name].shape:
            raise UserError(
                f"--init {path}: {name} is {tuple(state[name].shape)}, this network has {tuple(own[name].shape)}; "
                "set backbone.name, width and stem as in the file"
            )
    backbone.load_state_dict({name: state[name] for name in own})
