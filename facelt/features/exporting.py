"""Exported files: written, tried against the checkpoint they came from, and only then put in their place.

B: images, D: size of a feature.
"""

import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from facelt.errors import UserError
from facelt.features.facts import METADATA_KEY
from facelt.features.onnx_file import OnnxFile
from facelt.features.pictures import as_pixels, normalised
from facelt.features.portable import PortableNetwork, from_safetensors
from facelt.features.recognisers import Recognised, Recogniser
from recordio_tools.atomic import output_file, scratch_folder

TOLERANCE = 1e-4
LARGEST = 2**31 - 2**24  # bytes of tensors; a protobuf message ends at 2 GiB, and holds the graph too
ROUNDS = 5  # of timing

Answers = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Trial:
    """Pictures that an exported file must answer as the checkpoint does.

    pixels_BHW3: RGB, uint8. want: what the checkpoint's recogniser says of them: features, and columns by name.
    """

    pixels_BHW3: NDArray[np.uint8]
    want: Answers
    centroids_KD: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, recogniser: Recogniser, pictures: list[Image.Image], network: PortableNetwork) -> "Trial":
        """The pictures, and as many of noise."""
        pixels = as_pixels(pictures, recogniser)
        noise = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
        both = np.concatenate([pixels, noise])
        with torch.no_grad():
            said = recogniser.embed(normalised(both, recogniser))
        centroids = None if network.memory is None else network.memory.centroids.numpy()
        return cls(both, _answers(said), centroids)

    def furthest(self, got: Answers) -> float:
        """How far answers are from those of the checkpoint: features in shares of their length, numbers beside them
        in shares of theirs or of 1. An identity whose centroid does not have the cosine that was said is endlessly far.
        """
        features = self.want["features"]
        lengths_B = np.linalg.norm(features, axis=1).clip(1e-30)
        far = [float((np.linalg.norm(got["features"] - features, axis=1) / lengths_B).max())]
        for name in got.keys() & self.want.keys() - {"features"}:
            want = self.want[name]
            far.append(float((np.abs(got[name] - want) / np.abs(want).clip(1)).max()))
        if "identity" in got and self.centroids_KD is not None:
            chosen = self.centroids_KD[got["identity"]]
            cosines = (features * chosen).sum(1) / (lengths_B * np.linalg.norm(chosen, axis=1).clip(1e-30))
            far.append(float(np.abs(cosines - self.want["cosine"]).max()))
        return max(far) if np.isfinite(far).all() else float("inf")

    def check(self, answer: Callable[[NDArray[np.uint8]], Answers], target: Path) -> float:
        """Try batches of several sizes. Raises UserError where an answer is further than TOLERANCE."""
        parts = np.split(self.pixels_BHW3, [1, 4])
        got = [answer(part) for part in parts if len(part)]
        far = self.furthest({name: np.concatenate([each[name] for each in got]) for name in got[0]})
        if not far <= TOLERANCE:
            raise UserError(
                f"{target}: not written: its answers differ from the checkpoint's by {far:.1e} of a feature's length, "
                f"more than {TOLERANCE:.0e}; report this with the run's configuration"
            )
        return far


def _answers(said: Recognised) -> Answers:
    features, *_ = said.features
    return {"features": features.cpu().numpy()} | {name: column.cpu().numpy() for name, column in said.columns.items()}


def write_safetensors(network: PortableNetwork, target: Path, trial: Trial, force: bool) -> str:
    """Write tensors and facts as one file; in words, how far its answers are. Raises UserError as `Trial.check`."""
    tensors = {name: tensor.contiguous() for name, tensor in network.tensors().items()}
    metadata = {"format": "pt", METADATA_KEY: network.facts.model_dump_json()}
    with output_file(target, force=force) as draft:
        save_file(tensors, draft, metadata)
        read = from_safetensors(draft, torch.device("cpu"))
        far = trial.check(lambda pixels: _answers(read.embed(normalised(pixels, read))), target)
    return f"{target}: {_checked(trial, far)}; {target.stat().st_size / 1e6:,.1f} MB"


def write_onnx(network: PortableNetwork, target: Path, trial: Trial, *, int8: bool, force: bool) -> str:
    """Write a network as ONNX: float32, checked; or then made INT8, with what that costs in words.

    Above LARGEST the weights lie beside it, in a file of its name and ".data".

    Raises:
        UserError: what it takes is not installed, an answer is further from the checkpoint's than TOLERANCE, or the
            output cannot be written.
    """
    require()
    with scratch_folder(target) as scratch:
        whole = scratch / target.name
        _export(network, whole)
        file = OnnxFile(whole)
        far = trial.check(lambda pixels: _ask(file, network, pixels), target)
        said = f"{target}: {_checked(trial, far)}"
        made = whole
        if int8:
            made = scratch / "int8" / target.name
            made.parent.mkdir()
            said = f"{said}; INT8: {_quantise(whole, made, network, trial)}"
        data = made.with_name(f"{made.name}.data")
        beside = target.with_name(data.name)
        with output_file(target, force=force) as draft:
            if data.exists():
                with output_file(beside, force=force) as data_draft:
                    os.replace(data, data_draft)
                    target.unlink(missing_ok=True)  # an older model must not read newer weights
            os.replace(made, draft)
    size = sum(path.stat().st_size for path in (target, beside) if path.exists())
    return f"{said}; {size / 1e6:,.1f} MB" + (f", weights in {beside.name}" if beside.exists() else "")


def require() -> None:
    """Raise UserError where what an export takes is not installed."""
    needed = ["onnx", "onnxscript", "onnxruntime"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {' and '.join(missing)}: pip install 'facelt[export]'")


def _checked(trial: Trial, far: float) -> str:
    pictures = f"{len(trial.pixels_BHW3)} pictures, half of them noise"
    return f"as the checkpoint to {far:.1e} of a feature's length, by {pictures}"


def _export(network: PortableNetwork, path: Path) -> None:
    """The float32 graph, its batch free, with facelt's facts among its metadata."""
    size = network.facts.image_size
    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own passes
        program: Any = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(network.facts.outputs),
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )
    assert program is not None
    model = program.model
    model.producer_name = "facelt"
    model.metadata_props[METADATA_KEY] = network.facts.model_dump_json()
    model.metadata_props["input"] = describe_input(network)
    for node in list(model.graph)[:2] if network.facts.normalised == "inside" else ():
        node.name = f"{node.op_type}_pixels"  # insightface looks for names that begin with Sub and Mul
    total = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    program.save(str(path), external_data=total > LARGEST)


def describe_input(network: PortableNetwork) -> str:
    """What a network takes, in words."""
    facts = network.facts
    size = f"N x 3 x {facts.image_size} x {facts.image_size} float32, RGB"
    if facts.normalised == "inside":
        return f"{size}, 0 … 255"
    return f"{size}, (x - {list(facts.pixel_mean)}) / {list(facts.pixel_std)} of 0 … 255"


def _ask(file: OnnxFile, network: PortableNetwork, pixels_BHW3: NDArray[np.uint8]) -> Answers:
    facts = network.facts
    fed = (pixels_BHW3 - np.array(facts.fed_mean, np.float32)) / np.array(facts.fed_std, np.float32)
    answers = file.run(fed.transpose(0, 3, 1, 2).astype(np.float32), facts.outputs)
    return dict(zip(facts.outputs, answers, strict=True))


def _quantise(whole: Path, made: Path, network: PortableNetwork, trial: Trial) -> str:
    """Weights of convolutions and linear layers as INT8, what passes between them too, by the range of each batch; the
    memory stays. In words what it costs: cosines of the features to those before, size and time as shares."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    large = whole.with_name(f"{whole.name}.data").exists()
    logging.disable(logging.WARNING)  # it recommends a preparation that the exporter has done
    try:
        quantize_dynamic(
            whole,
            made,
            weight_type=QuantType.QUInt8,  # onnxruntime has no convolution of signed weights
            op_types_to_quantize=["Conv", "Gemm"],
            use_external_data_format=large,
        )
    finally:
        logging.disable(logging.NOTSET)
    before, after = OnnxFile(whole), OnnxFile(made)
    pairs = [_ask(file, network, trial.pixels_BHW3)["features"] for file in (before, after)]
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-30) for rows in pairs)
    cosines_B = (one * other).sum(1)
    seconds = {"before": 0.0, "after": 0.0}
    for _ in range(ROUNDS):  # by turns: the machine may have other work
        for name, file in (("before", before), ("after", after)):
            start = time.process_time()
            _ask(file, network, trial.pixels_BHW3)
            seconds[name] += time.process_time() - start
    size, processor = _bytes(made) / _bytes(whole), seconds["after"] / max(seconds["before"], 1e-9)
    return (
        f"cosine to float32 {cosines_B.mean():.4f} in the mean, {cosines_B.min():.4f} at least; "
        f"{size:.2f} of its size, {processor:.2f} of its processor time"
    )


def _bytes(model: Path) -> int:
    """Of a model and the weights beside it."""
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*") if path.is_file())
