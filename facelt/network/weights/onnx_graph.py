"""Weights of a recogniser in ONNX, matched to the layers of IResNet and MobileFaceNet by how its graph is joined.

Exporters rename initialisers and fold a batch normalisation into the convolution before it, so names say little. What
stays is the graph: from the images a convolution and a PReLU, then blocks whose ends are additions, then a linear map.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facelt.config import Pixel
from facelt.errors import UserError

_EPS = torch.nn.BatchNorm2d(1).eps
# What leaves the numbers as they are; a shape is worked out beside them.
_PASSING = {"Identity", "Dropout", "Cast", "Squeeze", "Unsqueeze", "Flatten", "Reshape"}
_SHAPING = {"Shape"}
_BEGINS = ("Conv", "Slice")  # what stands beside the first block of a layer; or pooling with a stride
# What may follow the embedding: its length, and the division by it.
_NORMALISING = {"ReduceL2", "LpNormalization", "Div", "Clip", "Expand", "Identity", "Shape"}


class Weights(NamedTuple):
    """tensors: by arcface_torch's names. pixels, folded: see `files.Read`."""

    tensors: dict[str, Tensor]
    pixels: tuple[Pixel, Pixel] | None
    folded: bool


class _Unlike(Exception):
    """The graph is joined otherwise than was expected; what was found there."""


def read(path: Path) -> Weights:
    """The weights of an ONNX file. Raises UserError: onnx is not installed, cannot read it, or the graph is another."""
    try:
        import onnx
    except ImportError:
        raise UserError(f'--init {path}: ONNX needs the package onnx: pip install "facelt[onnx]"') from None
    try:
        graph = _Graph(onnx.load(path).graph, onnx.numpy_helper.to_array, onnx.helper.get_attribute_value)
    except Exception as error:  # protobuf, and files that lie beside it: no common base
        raise UserError(
            f"--init {path}: onnx cannot read it ({type(error).__name__}); give a valid ONNX file"
        ) from None
    reasons = []
    for walk in (_IResNet, _MobileFaceNet):
        try:
            return walk(graph).weights()
        except _Unlike as unlike:
            reasons.append(f"{unlike}")
    raise UserError(
        f"--init {path}: neither an IResNet ({reasons[0]}) nor a MobileFaceNet ({reasons[1]}); expected a recogniser "
        "such as w600k_r50.onnx, or weights in .pth"
    )


class _Graph:
    """Nodes by what they give and take. users(tensor): those that go on with its numbers, in the graph's order."""

    def __init__(self, graph: Any, to_array: Any, attribute: Any) -> None:
        self._attribute = attribute
        self._arrays: dict[str, NDArray] = {one.name: to_array(one) for one in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._users: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            if node.op_type == "Constant":
                self._arrays[node.output[0]] = to_array(node.attribute[0].t)
            for name in node.input:
                self._users[name].append(node)
        inputs = [one.name for one in graph.input if one.name not in self._arrays]
        self.images = inputs[0]

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        """An attribute of a node."""
        return next((self._attribute(one) for one in node.attribute if one.name == name), default)

    def users(self, tensor: str) -> list[Any]:
        """Nodes that take a tensor, through those that only pass it on."""
        found = []
        for node in self._users[tensor]:
            if node.op_type in _PASSING and node.input[0] == tensor:
                found += self.users(node.output[0])
            elif node.op_type not in _SHAPING:
                found.append(node)
        return found

    def the_user(self, tensor: str, *kinds: str) -> Any:
        """The only node that takes a tensor, of one of these kinds."""
        users = self.users(tensor)
        if len(users) != 1 or users[0].op_type not in kinds:
            found = " and ".join(node.op_type for node in users) or "the end"
            raise _Unlike(f"{' or '.join(kinds)} expected, {found} found")
        return users[0]

    def array(self, name: str) -> NDArray:
        """A constant: an initialiser, or one that a node renames or reshapes."""
        if name in self._arrays:
            return self._arrays[name]
        maker = self._makers.get(name)
        if maker is None or maker.op_type not in _PASSING:
            raise _Unlike("a weight that is worked out within the graph")
        return self.array(maker.input[0])

    def is_constant(self, name: str) -> bool:
        """Whether `array` gives it."""
        try:
            self.array(name)
        except _Unlike:
            return False
        return True

    def tensor(self, name: str) -> Tensor:
        """A constant in float32, in a copy of its own."""
        return torch.from_numpy(np.array(self.array(name), dtype=np.float32))


class _Walk:
    """From the images on, layer after layer; `tensors` fills on the way."""

    def __init__(self, graph: _Graph) -> None:
        self.graph, self.tensors, self.folded = graph, {}, False

    def normalised(self) -> tuple[str, tuple[Pixel, Pixel] | None]:
        """The images as the first convolution takes them, and mean and std that the graph applies before it."""
        at, shift, scale, any_found = self.graph.images, np.zeros(3), np.ones(3), False
        while (node := self.graph.the_user(at, "Conv", "Sub", "Add", "Mul", "Div")).op_type != "Conv":
            own = next((name for name in node.input if self.graph.is_constant(name)), None)
            if own is None or (node.op_type in ("Sub", "Div") and own == node.input[0]):
                raise _Unlike(f"{node.op_type} of the images by no constant")
            value = np.broadcast_to(self.graph.array(own).astype(np.float64).reshape(-1), 3)
            shift, scale = {
                "Sub": (shift - value, scale),
                "Add": (shift + value, scale),
                "Mul": (shift * value, scale * value),
                "Div": (shift / value, scale / value),
            }[node.op_type]
            at, any_found = node.output[0], True
        if not any_found:
            return at, None
        mean, std = -shift / scale, 1 / scale
        return at, ((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def convolution(self, node: Any, conv: str, norm: str) -> str:
        """A convolution and the batch normalisation after it, which may be folded into it; what comes out."""
        weight = self.graph.tensor(node.input[1])
        self.tensors[f"{conv}.weight"] = weight
        bias = self.graph.tensor(node.input[2]) if len(node.input) > 2 else None
        users = self.graph.users(node.output[0])
        if bias is None and len(users) == 1 and users[0].op_type == "BatchNormalization":
            return self.normalisation(users[0], norm)
        self.identity(norm, bias if bias is not None else torch.zeros(len(weight)))
        return node.output[0]

    def normalisation(self, node: Any, norm: str) -> str:
        """A batch normalisation of its own; what comes out. Its ε becomes the one that is used here."""
        for name, given in zip(("weight", "bias", "running_mean", "running_var"), node.input[1:5], strict=True):
            self.tensors[f"{norm}.{name}"] = self.graph.tensor(given)
        self.tensors[f"{norm}.running_var"] += self.graph.attribute(node, "epsilon", 1e-5) - _EPS
        return node.output[0]

    def identity(self, norm: str, bias: Tensor) -> None:
        """A batch normalisation that was folded away: one that only adds the bias."""
        self.folded = True
        ones = torch.ones_like(bias)
        values = {"weight": ones, "bias": bias, "running_mean": 0 * ones, "running_var": ones - _EPS}
        self.tensors |= {f"{norm}.{name}": value for name, value in values.items()}

    def activation(self, at: str, name: str) -> str:
        """A PReLU; what comes out."""
        node = self.graph.the_user(at, "PRelu")
        self.tensors[f"{name}.weight"] = self.graph.tensor(node.input[1]).flatten()
        return node.output[0]

    def linear(self, node: Any, name: str) -> str:
        """A linear map, as Gemm or MatMul and Add; what comes out."""
        weight, at = self.graph.tensor(node.input[1]), node.output[0]
        if node.op_type == "MatMul" or not self.graph.attribute(node, "transB", 0):
            weight = weight.T.contiguous()
        self.tensors[f"{name}.weight"] = weight
        bias = self.graph.tensor(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        users = self.graph.users(at)
        if bias is None and len(users) == 1 and users[0].op_type == "Add":
            own = next(one for one in users[0].input if self.graph.is_constant(one))
            bias, at = self.graph.tensor(own), users[0].output[0]
        if bias is not None:
            self.tensors[f"{name}.bias"] = bias.flatten()
        return at

    def end(self, at: str, fc: str, norm: str) -> None:
        """The batch normalisation of the embedding; refuses what changes more than its length after that."""
        users = self.graph.users(at)
        if len(users) == 1 and users[0].op_type == "BatchNormalization":
            at = self.normalisation(users[0], norm)
        else:
            bias = self.tensors.get(f"{fc}.bias")
            self.identity(norm, torch.zeros(len(self.tensors[f"{fc}.weight"])) if bias is None else 0 * bias)
        after = self.graph.users(at)
        while after:
            node = after.pop()
            if node.op_type not in _NORMALISING:
                raise _Unlike(f"{node.op_type} after the embedding")
            after += [one for output in node.output for one in self.graph.users(output)]


class _IResNet(_Walk):
    """A map that two nodes take begins a block; the batch normalisation among them begins its longer way."""

    def weights(self) -> Weights:
        at, pixels = self.normalised()
        at = self.convolution(self.graph.the_user(at, "Conv"), "conv1", "bn1")
        at = self.activation(at, "prelu")
        layer, place = 0, 0
        while len(self.graph.users(at)) == 2:
            ways = {node.op_type: node for node in self.graph.users(at)}
            if "BatchNormalization" not in ways or len(ways) != 2:
                raise _Unlike(f"{' and '.join(ways)} take one map")
            main = ways.pop("BatchNormalization")
            (other,) = ways.values()
            # AdaFace's nets pool beside every block, by every place where the block keeps its size.
            pooled = other.op_type in ("MaxPool", "AveragePool")
            halved = max(self.graph.attribute(other, "strides", [1])) > 1 if pooled else other.op_type in _BEGINS
            layer, place = (layer + 1, 0) if halved else (layer, place + 1)
            at = self._block(main, other, f"layer{layer}.{place}")
        at = self.normalisation(self.graph.the_user(at, "BatchNormalization"), "bn2")
        at = self.linear(self.graph.the_user(at, "Gemm", "MatMul"), "fc")
        self.tensors.setdefault("fc.bias", torch.zeros(len(self.tensors["fc.weight"])))
        self.end(at, "fc", "features")
        return Weights(self.tensors, pixels, self.folded)

    def _block(self, main: Any, other: Any, name: str) -> str:
        at = self.normalisation(main, f"{name}.bn1")
        at = self.convolution(self.graph.the_user(at, "Conv"), f"{name}.conv1", f"{name}.bn2")
        at = self.activation(at, f"{name}.prelu")
        at = self.convolution(self.graph.the_user(at, "Conv"), f"{name}.conv2", f"{name}.bn3")
        joined = self.graph.the_user(at, "Add")
        if other.op_type == "Conv":
            other_at = self.convolution(other, f"{name}.downsample.0", f"{name}.downsample.1")
            other = self.graph.the_user(other_at, "Add")
        while other.op_type in ("MaxPool", "AveragePool", "Slice"):  # every second place, see `iresnet.Block`
            other = self.graph.the_user(other.output[0], "Add", "Slice")
        if other.output[0] != joined.output[0]:
            raise _Unlike(f"{other.op_type} beside a block")
        return joined.output[0]


class _MobileFaceNet(_Walk):
    """Convolutions in a row; a map that an addition takes too, later on, begins a bottleneck that keeps its size."""

    def weights(self) -> Weights:
        at, pixels = self.normalised()
        at = self._one(self.graph.the_user(at, "Conv"), "layers.0")
        at = self._one(self.graph.the_user(at, "Conv"), "layers.1")
        for first in (2, 4, 6):
            at = self._bottleneck(self.graph.the_user(at, "Conv"), f"layers.{first}")
            place = 0
            while len(users := self.graph.users(at)) == 2:
                ways = {node.op_type: node for node in users}
                if set(ways) != {"Conv", "Add"}:
                    raise _Unlike(f"{' and '.join(ways)} take one map")
                end = self._bottleneck(ways["Conv"], f"layers.{first + 1}.layers.{place}")
                if self.graph.the_user(end, "Add").output[0] != ways["Add"].output[0]:
                    raise _Unlike("Add beside a bottleneck")
                at, place = ways["Add"].output[0], place + 1
        at = self._one(self.graph.the_user(at, "Conv"), "conv_sep")
        pooling = self.graph.the_user(at, "Conv")
        at = self.convolution(pooling, "features.layers.0.layers.0", "features.layers.0.layers.1")
        at = self.linear(self.graph.the_user(at, "Gemm", "MatMul"), "features.layers.2")
        bias = self.tensors.pop("features.layers.2.bias", None)
        self.end(at, "features.layers.2", "features.layers.3")
        if bias is not None:  # a batch normalisation folded into the linear map, which has none here
            self.tensors["features.layers.3.bias"] += bias
        return Weights(self.tensors, pixels, self.folded)

    def _one(self, node: Any, name: str) -> str:
        at = self.convolution(node, f"{name}.layers.0", f"{name}.layers.1")
        return self.activation(at, f"{name}.layers.2")

    def _bottleneck(self, node: Any, name: str) -> str:
        at = self._one(node, f"{name}.layers.0")
        at = self._one(self.graph.the_user(at, "Conv"), f"{name}.layers.1")
        end = self.graph.the_user(at, "Conv")
        return self.convolution(end, f"{name}.layers.2.layers.0", f"{name}.layers.2.layers.1")
