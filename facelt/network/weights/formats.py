"""Whose network a file holds, told from its names; and its tensors under the names of the network here."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from facelt.config import FACE_PIXELS, IMAGENET_PIXELS, BackboneConfig, Pixel
from facelt.errors import UserError
from facelt.network import iresnet, resnet
from facelt.network.weights import files

_BLOCK = re.compile(r"layer(\d)\.(\d+)\.conv1\.weight")
_BODY = re.compile(r"body\.(\d+)\.(res_layer|shortcut_layer)\.(.+)")
# AdaFace's numbers within a block, and arcface_torch's names.
_RES_LAYER = {"0": "bn1", "1": "conv1", "2": "bn2", "3": "prelu", "4": "conv2", "5": "bn3"}
_ENDS = {
    "input_layer.0": "conv1", "input_layer.1": "bn1", "input_layer.2": "prelu",
    "output_layer.0": "bn2", "output_layer.3": "fc", "output_layer.4": "features",
}  # fmt: skip
NECK = ("bn2", "fc", "features")  # of an IResNet in arcface_torch: what is no part of the backbone here


@dataclass(frozen=True)
class Given:
    """A network that a file holds.

    title: whose, in words. name, width, stem: as the knobs of "backbone" have it; stem None: not a matter of choice.
    tensors: by the names of the network here, "backbone.…" and "neck.…". first: of its first convolution.
    left: names of the file that are no part of it. pixels: pixel_mean and pixel_std that it takes, of 0 … 255.
    channels: the order that it takes, "rgb" or "bgr". folded: see `files.Read`.
    """

    title: str
    name: str
    width: int
    stem: str | None
    tensors: dict[str, Tensor]
    first: str
    left: tuple[str, ...]
    pixels: dict[str, Pixel]
    channels: str = "rgb"
    folded: bool = False


def recognise(path: Path, init_channels: str | None = None) -> Given:
    """The network that a file holds. init_channels: the order that its user says it takes.

    Raises UserError where it is none that is known, or its order of channels is, and nobody says which.
    """
    read = files.read(path)
    for first, kind in _KINDS.items():
        if (prefix := files.wrapper(read.tensors, first)) is not None:
            names = {name.removeprefix(prefix): t for name, t in read.tensors.items() if name.startswith(prefix)}
            found = kind(path, names)
            break
    else:
        shown = ", ".join([*read.tensors][:3])
        raise UserError(
            f"--init {path}: its names ({shown} …) are of no network that is known here: torchvision's ResNet, "
            'IResNet and MobileFaceNet of insightface, AdaFace and CVLface; for timm set "backbone.name": "timm"'
        )
    of_others = [name for name in read.tensors if not name.startswith(prefix)]
    found = replace(found, left=(*found.left, *of_others), folded=read.folded)
    if path.suffix == ".onnx":
        found = replace(found, title=f"{found.name} in ONNX")
    if read.pixels is not None:
        found = replace(found, pixels=dict(zip(FACE_PIXELS, read.pixels, strict=True)))
    if "net" in prefix.split("."):  # CVLface, which has AdaFace's names for networks of either order
        unsaid = "unknown" if found.channels == "bgr" else found.channels
        found = replace(found, channels=files.color_space(path) or unsaid)
    if init_channels is not None:
        found = replace(found, channels=init_channels)
    if found.channels == "unknown":
        raise UserError(
            f"--init {path}: {found.title} as CVLface saves it, without the .yaml or config.json beside it that says "
            "RGB or BGR; put that there, or set backbone.init_channels"
        )
    return found


def _resnet(path: Path, names: Mapping[str, Tensor]) -> Given:
    """torchvision's ResNet, or insightface's IResNet, which have their first name in common."""
    if "layer1.0.prelu.weight" in names:
        return _insightface(path, names, "insightface")
    depths, width = _depths(names), len(names["conv1.weight"])
    bottleneck = "layer1.0.conv3.weight" in names
    known = {name: ds for name, (b, ds) in resnet.DEPTHS.items() if bottleneck == (b is resnet.Bottleneck)}
    name = _named(path, "a ResNet", depths, known)
    return Given(
        title=f"torchvision's {name.replace('resnet', 'ResNet-')}",
        name=name,
        width=width,
        stem="imagenet" if names["conv1.weight"].shape[-1] == 7 else "face",
        tensors={f"backbone.{n}": t for n, t in names.items() if not n.startswith("fc.")},
        first="backbone.conv1.weight",
        left=tuple(n for n in names if n.startswith("fc.")),
        pixels=IMAGENET_PIXELS,
    )


def _insightface(path: Path, names: Mapping[str, Tensor], whose: str) -> Given:
    depths = _depths(names)
    family = "iresnet" if "layer1.0.downsample.0.weight" in names else "ir"
    known = {name: ds for name, ds in iresnet.DEPTHS.items() if name.removeprefix(family).isdigit()}
    name = _named(path, "an IResNet", depths, known)
    tensors = {f"neck.{n}" if n.split(".")[0] in NECK else f"backbone.{n}": t for n, t in names.items()}
    return Given(
        title=f"{name} of {whose}",
        name=name,
        width=len(names["conv1.weight"]),
        stem=None,
        tensors=tensors,
        first="backbone.conv1.weight",
        left=(),
        pixels=FACE_PIXELS,
    )


def _adaface(path: Path, names: Mapping[str, Tensor]) -> Given:
    """AdaFace's IR-net: blocks are counted through, and the last batch normalisation has no scale and shift."""
    if any("se_block" in name or ".res_layer.7." in name for name in names):
        kind = "squeeze-and-excitation" if any("se_block" in name for name in names) else "bottlenecks"
        raise UserError(f"--init {path}: AdaFace's IR-net with {kind}, which is none here; expected ir18 to ir101")
    width = len(names["input_layer.0.weight"])
    place, count = {}, defaultdict(int)
    bodies = sorted(
        int(found[1]) for name in names if (found := re.fullmatch(r"body\.(\d+)\.res_layer\.4\.weight", name))
    )
    for body in bodies:
        layer = round(math.log2(len(names[f"body.{body}.res_layer.4.weight"]) / width)) + 1
        place[body] = f"layer{layer}.{count[layer]}"
        count[layer] += 1
    taken, left = {}, []
    for name, tensor in names.items():
        if found := _BODY.fullmatch(name):
            number, _, rest = found[3].partition(".")
            own = f"downsample.{number}" if found[2] == "shortcut_layer" else _RES_LAYER.get(number)
            own = None if own is None or int(found[1]) not in place else f"{place[int(found[1])]}.{own}.{rest}"
        else:
            stem, _, rest = name.rpartition(".")
            own = f"{_ENDS[stem]}.{rest}" if stem in _ENDS else None
        if own is None:
            left.append(name)
        else:
            taken[own] = tensor
    if "features.running_var" in taken:
        taken.setdefault("features.weight", torch.ones_like(taken["features.running_var"]))
        taken.setdefault("features.bias", torch.zeros_like(taken["features.running_var"]))
    found = _insightface(path, taken, "AdaFace")
    return replace(found, left=tuple(left), channels="bgr")


def _mobilefacenet(path: Path, names: Mapping[str, Tensor]) -> Given:
    tensors = {
        f"neck.{n.removeprefix('features.')}" if n.startswith("features.") else f"backbone.{n}": t
        for n, t in names.items()
    }
    return Given(
        title="MobileFaceNet of insightface",
        name="mobilefacenet",
        width=len(names["layers.0.layers.0.weight"]),
        stem=None,
        tensors=tensors,
        first="backbone.layers.0.layers.0.weight",
        left=(),
        pixels=FACE_PIXELS,
    )


_KINDS: dict[str, Callable[[Path, Mapping[str, Tensor]], Given]] = {
    "conv1.weight": _resnet,
    "input_layer.0.weight": _adaface,
    "layers.0.layers.0.weight": _mobilefacenet,
}


def _depths(names: Mapping[str, Tensor]) -> list[int]:
    """How many blocks each layer has."""
    blocks = {(int(found[1]), int(found[2])) for name in names if (found := _BLOCK.fullmatch(name))}
    layers = [layer for layer, _ in blocks]
    return [layers.count(layer) for layer in sorted(set(layers))]


def _named(path: Path, kind: str, depths: list[int], known: Mapping[str, list[int]]) -> str:
    for name, own in known.items():
        if own == depths:
            return name
    shown = " ".join(map(str, depths))
    raise UserError(f"--init {path}: {kind} of {shown} blocks; expected one of: {', '.join(known)}")


def check(path: Path, given: Given, knobs: BackboneConfig) -> None:
    """Refuse a network that is not the one that the knobs describe."""
    own = {"name": (given.name, knobs.name), "width": (given.width, knobs.width)}
    own |= {} if given.stem is None else {"stem": (given.stem, knobs.stem)}
    differing = {name: pair for name, pair in own.items() if pair[0] != pair[1]}
    if differing:
        here = " ".join(f"{name} {mine}" for name, (_, mine) in differing.items())
        to_set = ", ".join(f"backbone.{name}={theirs}" for name, (theirs, _) in differing.items())
        raise UserError(
            f"--init {path}: holds {given.title} of width {given.width}, the network here has {here}; set {to_set}"
        )
    if given.folded and knobs.batch_norm != "frozen":
        raise UserError(
            f"--init {path}: its batch normalisations are folded into its convolutions, so their statistics are lost: "
            "set backbone.batch_norm=frozen"
        )
