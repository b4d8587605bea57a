"""The backbones by name, and how one is run."""

import os
import shutil

import torch

from facelt.config import BackboneConfig
from facelt.errors import UserError
from facelt.network import iresnet
from facelt.network.batch_norm import KINDS
from facelt.network.blockwise import Blockwise
from facelt.network.iresnet import IResNet
from facelt.network.mobilefacenet import MobileFaceNet
from facelt.network.resnet import ResNet
from facelt.network.timm_network import TimmNetwork


def of(knobs: BackboneConfig, image_size: int) -> Blockwise:
    """The network that the knobs describe, for images of that side."""
    if knobs.name == "timm":
        assert knobs.timm is not None
        return TimmNetwork(knobs.timm, image_size, knobs.batch_norm)
    return build(knobs.name, knobs.width, knobs.stem, knobs.batch_norm)


def build(name: str, width: int, stem: str, batch_norm: str) -> Blockwise:
    """A network other than timm's. stem: of a ResNet. batch_norm: a key of `batch_norm.KINDS`."""
    if name in iresnet.DEPTHS:
        return IResNet(name, width, KINDS[batch_norm])
    if name == "mobilefacenet":
        return MobileFaceNet(width, KINDS[batch_norm])
    return ResNet(name, width, stem, KINDS[batch_norm])


def switch(net: Blockwise, compile: bool, channels_last: bool, checkpointing: bool) -> None:
    """Choose how a network is run, in place: the numbers and the names of its tensors stay the same.

    compile: torch.compile, which fuses normalisation and activation, at its first batch. channels_last: maps in the
    order B x H x W x C. checkpointing: residual blocks keep their input alone and are run again in the backward pass.
    Raises UserError where there is no compiler for `compile`, or too few channels for channels_last.
    """
    if channels_last and net.width < 8:
        # oneDNN's gradient of a strided 1x1 convolution writes past its memory there.
        raise UserError(f"backbone.channels_last with width {net.width}; expected width 8 or more")
    net.channels_last, net.checkpointing = channels_last, checkpointing
    if not compile:
        return
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise UserError(f"backbone.compile needs the C++ compiler {compiler}, not found; install it, or set it false")
    # The compiler cannot look through a block that is done again: then each is compiled by itself.
    for part in net.blocks() if checkpointing else (net,):
        part.compile()
