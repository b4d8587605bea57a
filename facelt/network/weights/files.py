"""Tensors out of a file of weights, whatever lies around them; nothing in it is ever run.

Read: torch's files (.pth, .pt, .ckpt, by `weights_only`), safetensors, and ONNX.
"""

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from facelt.config import Pixel
from facelt.errors import UserError
from facelt.network.weights import onnx_graph

EXPECTED = "expected weights in .pth, .pt, .ckpt, .safetensors or .onnx"
# What training code puts around a state dict: PyTorch Lightning, arcface_torch, timm, and whoever saves a whole run.
_NESTS = ("state_dict", "state_dict_backbone", "model_state_dict", "model", "net", "backbone", "network")
# … and before its names: DataParallel, Lightning modules, CVLface, torch.compile.
_WRAPPERS = ("module", "model", "net", "backbone", "network", "_orig_mod")
_SIDE_FILE = re.compile(r"""color_space['"]?\s*:\s*['"]?(RGB|BGR)""")


class Read(NamedTuple):
    """tensors: by the names in the file. pixels: mean and std that an ONNX graph begins with, or None. folded: whether
    batch normalisations are folded into the convolutions before them, as exporters to ONNX do."""

    tensors: dict[str, Tensor]
    pixels: tuple[Pixel, Pixel] | None = None
    folded: bool = False


def read(path: Path) -> Read:
    """The tensors of a file, in float32 where they are of a floating type.

    Raises UserError: there is no such file; it holds no tensors by name; or reading it would run code that it brings.
    """
    if not path.is_file():
        raise UserError(f"--init {path}: no such file; {EXPECTED}")
    if path.suffix == ".onnx":
        graph = onnx_graph.read(path)
        return Read(_plain(graph.tensors), graph.pixels, graph.folded)
    tensors = _plain(_unnested(_load(path)))
    if not tensors:
        raise UserError(f"--init {path}: holds no tensors by name; expected the state dict of a network")
    if "backbone.conv1.weight" in tensors and "neck.fc.weight" in tensors:
        raise UserError(f"--init {path}: the network of a run of facelt; give the run with --start-from instead")
    return Read(tensors)


def _load(path: Path) -> Any:
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none makes the readers stumble over
        needed = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if needed is not None:
            raise UserError(
                f"--init {path}: cannot be read without running code that it names ({needed[1]}), which is refused; "
                "where you trust it, save the state dict alone with torch.save, and give that"
            ) from None
        kind = type(error).__name__
        raise UserError(f"--init {path}: not a state dict ({kind}); {EXPECTED}") from None


def _unnested(value: Any) -> dict[str, Any]:
    """The innermost dictionary that has tensors by name; {} where there is none."""
    while isinstance(value, dict) and not any(isinstance(one, Tensor) for one in value.values()):
        inner = [value[name] for name in _NESTS if isinstance(value.get(name), dict)]
        if not inner:
            return {}
        value = inner[0]
    return value if isinstance(value, dict) else {}


def _plain(state: dict[str, Any]) -> dict[str, Tensor]:
    tensors = {str(name): value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def wrapper(names: dict[str, Tensor], first: str) -> str | None:
    """What stands before `first`, the name of a network's first tensor, such as "module.model."; None: it is not there.

    The shortest, where several networks are in the file.
    """
    found = (name.removesuffix(first) for name in names if name.endswith(first))
    fits = [prefix for prefix in found if all(part in _WRAPPERS for part in prefix.split(".")[:-1])]
    return min((prefix for prefix in fits if not prefix or prefix.endswith(".")), key=len, default=None)


def color_space(path: Path) -> str | None:
    """What CVLface says beside its weights, in a .yaml of that name, model.yaml or config.json: "rgb" or "bgr"."""
    for beside in (path.with_suffix(".yaml"), path.with_name("model.yaml"), path.with_name("config.json")):
        if beside.is_file() and (found := _SIDE_FILE.search(beside.read_text(encoding="utf-8", errors="replace"))):
            return found[1].lower()
    return None
