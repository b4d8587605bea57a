"""A recogniser in an ONNX file, whoever made it: what it takes, which of its outputs is the feature, and running it.

B: images of a call, H x W: their height and width, D: size of a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facelt.config import Pixel
from facelt.errors import UserError
from facelt.features.facts import METADATA_KEY, RecogniserFacts
from facelt.features.recognisers import Recognised, Recogniser
from facelt.parallel import group

NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
USUAL = 127.5  # mean and deviation that face recognisers expect
CPU = torch.device("cpu")
SIDE = 112  # of a net that takes any size
MISSING = "{option} needs {package}: pip install 'facelt[onnx]'"
EXPECTED = "expected N x 3 x H x W or N x H x W x 3 images of float32, float16 or uint8"


@dataclass(frozen=True)
class OnnxPixels:
    """What the user says that an ONNX model expects: (x - mean) / std of 0 … 255, one number or three for R, G and B,
    in this order of channels ("rgb" or "bgr"); None: as the file tells, or else 127.5."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: str = "rgb"


class Entry(NamedTuple):
    """The image input. number: its type. last: whether the channels come last. batch: None for any."""

    name: str
    number: type[np.generic]
    last: bool
    batch: int | None
    height: int
    width: int


@dataclass(frozen=True)
class Affine:
    """What a graph does to its pixels first, scale·x + shift for each channel of its input."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def range(self) -> float | None:
        """255 where it is made for pixels of 0 … 255, 1 for those of 0 … 1, None for others.

        What becomes 0 tells them apart, about the middle of the range; or, where that is 0, the size of the scale.
        """
        middle = float(np.mean(-self.shift / self.scale))
        if middle == 0:
            return 255.0 if np.abs(self.scale).max() < 0.1 else None
        return 255.0 if middle > 2 else 1.0 if 0.1 < middle <= 1 else None


class OnnxFile:
    """An ONNX file opened by onnxruntime. option: how messages name it. device: where it is computed, if it can.

    Raises UserError where onnxruntime is missing or cannot load the file, or the file takes something else than images.
    """

    def __init__(self, path: str | Path, option: str = "--onnx", device: torch.device = CPU) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(MISSING.format(option=option, package="onnxruntime")) from None
        self.path, self.where = Path(path), f"{option} {path}"
        if not self.path.is_file():
            raise UserError(f"{self.where}: no such file; give a recogniser in ONNX")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # a batch other than the output says is no news
        try:
            providers = onnx_providers(device, onnxruntime.get_available_providers())
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own types share no base but Exception
            raise UserError(f"{self.where}: onnxruntime cannot load it ({error}); give a valid ONNX file") from None
        computes = self.session.get_providers()[0].removesuffix("ExecutionProvider")
        if device.type == "cuda" and computes != "CUDA":
            group.say(f"{self.where}: computed on the {computes}, not on CUDA; install onnxruntime-gpu for that")
        self.entry = self._entry()

    def _entry(self) -> Entry:
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            taken = ", ".join(f"{one.name} {one.shape}" for one in inputs)
            raise UserError(f"{self.where}: takes {len(inputs)} inputs, {taken}; {EXPECTED} alone")
        (one,) = inputs
        shape = one.shape if len(one.shape) == 4 else [None] * 4
        # Some exporters leave even the 3 free; but 1 or 4 channels are another kind of picture.
        last = shape[3] == 3 and shape[1] != 3
        channels_fit = last or shape[1] == 3 or (len(one.shape) == 4 and not isinstance(shape[1], int))
        if one.type not in NUMBERS or not channels_fit:
            raise UserError(f"{self.where}: its input {one.name} is {one.type} {one.shape}; {EXPECTED}")
        height, width = (side if isinstance(side, int) else SIDE for side in (shape[1:3] if last else shape[2:]))
        first: Any = shape[0]
        batch = first if isinstance(first, int) and first > 0 else None
        return Entry(one.name, NUMBERS[one.type], last, batch, height, width)

    def facts(self) -> RecogniserFacts | None:
        """What facelt wrote into a file that it exported; None for one of anyone else."""
        said = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return None if said is None else RecogniserFacts.read(said, self.where)

    def run(self, images_B3HW: NDArray[np.floating], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Outputs for images whose channels are in the model's order and whose pixels are as it wants them.

        As many calls as its batch needs; the last one is filled up with its last image.
        """
        fed = images_B3HW
        if self.entry.number is np.uint8:
            fed = np.rint(fed).clip(0, 255)
        fed = np.ascontiguousarray(fed.transpose(0, 2, 3, 1) if self.entry.last else fed, self.entry.number)
        step = self.entry.batch or len(fed)
        parts = []
        for start in range(0, len(fed), step):
            part = fed[start : start + step]
            short = (self.entry.batch or len(part)) - len(part)
            full = np.concatenate([part, part[-1:].repeat(short, axis=0)]) if short else part
            answers: list[Any] = list(self.session.run(list(outputs), {self.entry.name: full}))
            if len({len(full), *(len(answer) if answer.ndim else 0 for answer in answers)}) > 1:
                shapes = [answer.shape for answer in answers]
                raise UserError(f"{self.where}: {len(full)} images gave {shapes}; expected a row for each image")
            parts.append([answer[: len(part)] for answer in answers])
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def feature_output(self, name: str | None) -> str:
        """The output that is the feature: the one of N x D (or N x D x 1 x 1), by what it gives for two images.

        name: the user's choice. Raises UserError where there is none of that shape, or several and no name.
        """
        names = [one.name for one in self.session.get_outputs()]
        if name is not None and name not in names:
            raise UserError(
                f"{self.where}: no output {name}; its outputs are {', '.join(names)}: give one to --output-name"
            )
        rows, shapes = self._try_outputs(names)
        embeddings = [n for n, shape in shapes.items() if _is_feature(shape, rows)]
        said = ", ".join(f"{n} {list(shape)}" for n, shape in shapes.items())
        if name is not None and name not in embeddings:
            raise UserError(
                f"{self.where}: --output-name {name} is no feature; its outputs for {rows} images are {said}; "
                "expected N x D with D of 2 or more"
            )
        if name is None and len(embeddings) != 1:
            problem = (
                "several may be the feature: give one to --output-name"
                if embeddings
                else ("none is a feature: expected N x D with D of 2 or more")
            )
            raise UserError(f"{self.where}: of its outputs, for {rows} images {said}, {problem}")
        return name or embeddings[0]

    def _try_outputs(self, names: list[str]) -> tuple[int, dict[str, tuple[int, ...]]]:
        """How many images of noise went in, and the shape of each output."""
        rng, problem = np.random.default_rng(0), ""
        # A free batch is tried with two: some files promise one that their graph does not keep.
        for rows in (self.entry.batch,) if self.entry.batch else (2, 1):
            noise = rng.integers(0, 256, (rows, 3, self.entry.height, self.entry.width)).astype(np.float32)
            fed = noise if self.entry.number is np.uint8 else (noise - USUAL) / USUAL
            fed = np.ascontiguousarray(fed.transpose(0, 2, 3, 1) if self.entry.last else fed, self.entry.number)
            try:
                answers: list[Any] = list(self.session.run(names, {self.entry.name: fed}))
            except Exception as error:  # as above
                problem = " ".join(str(error).split())
                continue
            if self.entry.batch is None and rows > 1 and not any(np.shape(one)[:1] == (rows,) for one in answers):
                continue
            if rows == 1 and self.entry.batch is None:
                self.entry = self.entry._replace(batch=1)
            return rows, {n: np.shape(answer) for n, answer in zip(names, answers, strict=True)}
        raise UserError(
            f"{self.where}: does not run on images ({problem}); give a recogniser that takes them"
        ) from None

    def normalisation(self) -> Affine | None:
        """What its graph does to the pixels before anything else; None where it begins with the network.

        A chain of Sub, Add, Mul and Div by constants of one or three numbers, among Cast, Identity and Transpose.
        """
        try:
            import onnx
            import onnx.external_data_helper
        except ImportError:
            raise UserError(MISSING.format(option="--onnx", package="onnx")) from None
        graph: Any = onnx.load(str(self.path), load_external_data=False).graph
        constants = {t.name: t for t in graph.initializer if not onnx.external_data_helper.uses_external_data(t)}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        at, chain = self.entry.name, Affine(np.ones(3), np.zeros(3))
        begun = False
        while len(users := [node for node in graph.node if at in node.input]) == 1:
            (node,) = users
            if node.op_type not in ("Cast", "Identity", "Transpose"):
                step = _affine_step(node, at, constants, onnx.numpy_helper.to_array)
                if step is None:
                    break
                chain = Affine(step.scale * chain.scale, step.scale * chain.shift + step.shift)
                begun = True
            at = node.output[0]
        return chain if begun else None


def _is_feature(shape: tuple[int, ...], rows: int) -> bool:
    return len(shape) >= 2 and shape[0] == rows and shape[1] >= 2 and all(side == 1 for side in shape[2:])


def _affine_step(node: Any, at: str, constants: dict[str, Any], to_array: Any) -> Affine | None:
    """One node as scale·x + shift, where x is its input `at`; None where it is no such step."""
    if node.op_type not in ("Sub", "Add", "Mul", "Div") or len(node.input) != 2:
        return None
    other = node.input[1] if node.input[0] == at else node.input[0]
    if other not in constants:
        return None
    value = np.asarray(to_array(constants[other]), np.float64)
    if value.size not in (1, 3) or not np.isfinite(value).all():
        return None
    c, one, none = np.broadcast_to(value.reshape(-1), 3), np.ones(3), np.zeros(3)
    first = node.input[0] == at
    if node.op_type == "Add":
        return Affine(one, c)
    if node.op_type == "Mul":
        return Affine(c, none) if c.all() else None
    if node.op_type == "Sub":
        return Affine(one, -c) if first else Affine(-one, c)
    return Affine(1 / c, none) if first and c.all() else None


def onnx_providers(device: torch.device, available: list[str]) -> list[Any]:
    """What onnxruntime is to compute with: this rank's GPU where it can, else the CPU; nothing unasked for."""
    cuda = ("CUDAExecutionProvider", {"device_id": device.index or 0})
    on_gpu = device.type == "cuda" and cuda[0] in available
    return [*([cuda] if on_gpu else []), "CPUExecutionProvider"]


def from_onnx(
    path: str | Path, pixels: OnnxPixels, output_name: str | None = None, device: torch.device = CPU
) -> Recogniser:
    """A recogniser in ONNX with one image input; an exported one of facelt tells what it takes and gives itself.

    device: this rank's; features come out there.

    Normalisation within the graph is found and not done twice, unless the user says what the model is fed.

    Raises UserError where onnxruntime is missing or cannot load the file, or it is no recogniser of images.
    """
    file = OnnxFile(path, device=device)
    facts = file.facts()
    feature = file.feature_output(output_name if facts is None else output_name or facts.outputs[0])
    columns = [] if facts is None else [name for name in facts.outputs[1:] if name in COLUMNS]
    mean, std, said = _fed(file, pixels, facts)
    channels = "rgb" if facts is not None else pixels.channels
    group.say(
        f"{file.where}: {file.entry.name}, {channels.upper()}, {file.entry.height} x {file.entry.width}, {said}; "
        f"feature {feature}"
    )

    def embed(images_B3HW: Tensor) -> Recognised:
        ordered = images_B3HW.flip(1) if channels == "bgr" else images_B3HW
        rows_BD, *more = file.run(ordered.cpu().numpy(), [feature, *columns])
        to_device = lambda array: torch.from_numpy(array.astype(np.float32)).to(images_B3HW.device)  # noqa: E731
        known = {name: to_device(column) for name, column in zip(columns, more, strict=True)}
        return Recognised([to_device(rows_BD).flatten(1)], known)

    made_by = {"recogniser": "onnx", "model": str(path), "mean": _short(mean), "std": _short(std), "channels": channels}
    width = None if file.entry.height == file.entry.width else file.entry.width
    recogniser = Recogniser(embed, file.entry.height, made_by, mean=mean, std=std, width=width, foreign=True)
    return recogniser if facts is None else replace(recogniser, resize=facts.resize, embeddings=(facts.embedding,))


NOTHING: Pixel = (0.0, 0.0, 0.0)
COLUMNS = ("reachability", "cosine")  # outputs of exported files that are written beside the features


def _short(pixel: Pixel) -> float | list[float]:
    """As meta.json has it: one number where the three are alike."""
    return pixel[0] if len(set(pixel)) == 1 else list(pixel)


def _said(mean: Pixel, std: Pixel) -> str:
    less, by = (", ".join(f"{v:g}" for v in (pixel[:1] if len(set(pixel)) == 1 else pixel)) for pixel in (mean, std))
    return f"(x - {less}) / {by}"


def _fed(file: OnnxFile, pixels: OnnxPixels, facts: RecogniserFacts | None) -> tuple[Pixel, Pixel, str]:
    """Mean and deviation of the pixels that a file is fed, in the order R, G, B, and where that is from, in words."""
    told = pixels.mean is not None or pixels.std is not None
    if facts is not None:
        if told or pixels.channels != "rgb":
            raise UserError(
                f"{file.where}: was exported by facelt and says itself what it takes; leave out --mean, "
                "--std and --channels"
            )
        return facts.fed_mean, facts.fed_std, "as its metadata says"
    mean, std = _three("--mean", pixels.mean), _three("--std", pixels.std)
    if file.entry.number is np.uint8:
        if told:
            raise UserError(f"{file.where}: takes uint8, 0 … 255, and normalises itself; leave out --mean and --std")
        return NOTHING, (1.0, 1.0, 1.0), "uint8 of 0 … 255"
    inside = file.normalisation()
    if told:
        if inside is not None:
            group.say(f"warning: {file.where}: its graph normalises too, after what --mean and --std do")
        return mean, std, _said(mean, std)
    if inside is None:
        return mean, std, f"{_said(mean, std)}, as is usual: --mean and --std for another"
    largest = inside.range()
    if largest is None:
        scale, shift = (", ".join(f"{v:g}" for v in values) for values in (inside.scale, inside.shift))
        raise UserError(
            f"{file.where}: its graph begins with x·({scale}) + ({shift}), from which no range of pixels can be "
            "told; say what it is fed: --mean and --std, such as --mean 0 --std 1 for 0 … 255"
        )
    unit = 255 / largest
    return NOTHING, (unit, unit, unit), f"pixels of 0 … {largest:g}, which its graph normalises"


def _three(option: str, values: tuple[float, ...] | None) -> Pixel:
    given = (USUAL,) if values is None else values
    if len(given) not in (1, 3) or not np.isfinite(given).all() or (option == "--std" and min(given) <= 0):
        raise UserError(
            f"{option} {' '.join(f'{v:g}' for v in given)}: expected one number or three, for R, G and B"
            + (", above 0" if option == "--std" else "")
        )
    first, *_ = given
    return (first, first, first) if len(given) == 1 else (given[0], given[1], given[2])
