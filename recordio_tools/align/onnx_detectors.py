"""Detectors from ONNX files of two kinds, told by the shapes of their outputs: SCRFD with landmarks, and YuNet.

SCRFD (insightface): for each stride of 8, 16, 32 and each anchor of a cell a score, and where four sides and five
landmarks lie from the cell, in strides. YuNet (OpenCV): for each cell class and objectness, whose geometric mean is the
score, a box of centre and logarithmic sides, and five landmarks.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from recordio_tools.align.faces import Faces, suppress
from recordio_tools.errors import UserError

STRIDES = (8, 16, 32)
SIDE = 640  # pixels of the square that goes into a net that takes any size
OVERLAP = 0.4  # above it two boxes are one face
EXPECTED = (
    "expected SCRFD with landmarks (9 outputs: scores, boxes, landmarks at strides 8, 16, 32) or YuNet (12 outputs: "
    "class, object, box, landmarks)"
)

Levels = list[list[np.ndarray]]  # per stride: scores (n, 1), one or two, boxes (n, 4) and landmarks (n, 10)


class OnnxDetector:
    """A detector in an ONNX file. Raises UserError for a file that is none of a known kind."""

    def __init__(self, file: Path, threshold: float):
        if not file.is_file():
            raise UserError(f"{file}: no such file; expected a detector in ONNX")
        try:
            from onnxruntime import InferenceSession  # loaded only where it is used
            from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
        except ImportError:
            raise UserError(
                "--detector needs onnxruntime, which is not installed; run: pip install onnxruntime"
            ) from None
        try:
            self.session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, RuntimeError) as error:
            raise UserError(f"{file}: is no ONNX file that onnxruntime loads ({type(error).__name__})") from None
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, "3") or inputs[0].type != "tensor(float)":
            raise UserError(f"{file}: takes {[i.shape for i in inputs]}, expected one input of float32 [1, 3, H, W]")
        self.name, self.file, self.threshold = inputs[0].name, file, threshold
        self.height, self.width = (side if isinstance(side, int) and side > 0 else SIDE for side in shape[2:])
        self.yunet = False
        self.yunet = len(self._run(np.zeros((self.height, self.width, 3), np.uint8))[0]) == 4

    def detect(self, pictures: list[np.ndarray]) -> list[Faces]:
        """Faces of each picture (uint8[H, W, 3], RGB), by score."""
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: np.ndarray) -> Faces:
        height, width = picture.shape[:2]
        scale = min(self.height / height, self.width / width)
        small = Image.fromarray(picture).resize(
            (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR
        )
        square = np.zeros((self.height, self.width, 3), np.uint8)
        square[: small.height, : small.width] = small
        decode = decode_yunet if self.yunet else decode_scrfd
        found = decode(self._run(square), (self.height, self.width))
        found = found.pick(np.flatnonzero(found.scores_n >= self.threshold))
        return found.pick(suppress(found.boxes_n4, found.scores_n, OVERLAP)).scaled(1 / scale)

    def _run(self, square: np.ndarray) -> Levels:
        """Outputs for a picture of the net's size, sorted by stride. Raises UserError for those of another kind."""
        # Until the kind is known, either input does: only the outputs' shapes matter.
        pixels = square[..., ::-1].astype(np.float32) if self.yunet else (square.astype(np.float32) - 127.5) / 128
        given = {self.name: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
        outputs: list[np.ndarray] = [np.array(output) for output in self.session.run(None, given)]
        levels = sort_outputs(outputs, self.height * self.width)
        if levels is None:
            shapes = ", ".join("×".join(map(str, output.shape)) for output in outputs)
            raise UserError(f"{self.file}: a detector of an unknown kind, with outputs of {shapes}; {EXPECTED}")
        return levels


def sort_outputs(outputs: list[np.ndarray], area: int) -> Levels | None:
    """Outputs by stride, each stride's by width; None where they are those of no known kind.

    Args:
        outputs: arrays ([1,] n, 1 | 4 | 10).
        area: pixels that went in.
    """
    flat = [output[0] if output.ndim == 3 and len(output) == 1 else output for output in outputs]
    if any(output.ndim != 2 for output in flat):
        return None
    levels = []
    for stride in STRIDES:
        cells = area // stride**2
        for anchors in (1, 2):
            own = sorted((output for output in flat if len(output) == cells * anchors), key=lambda out: out.shape[1])
            if [out.shape[1] for out in own] in ([1, 4, 10], [1, 1, 4, 10]):
                levels.append(own)
    complete = len(levels) == len(STRIDES) and sum(map(len, levels)) == len(outputs)
    return levels if complete and len({len(level) for level in levels}) == 1 else None


def _cells(stride: int, size: tuple[int, int], anchors: int) -> np.ndarray:
    """Column and row (n, 2) of each anchor's cell, row by row, in a picture of `size` (height, width) pixels."""
    row, column = np.indices((size[0] // stride, size[1] // stride)).reshape(2, -1)
    return np.repeat(np.stack([column, row], axis=1), anchors, axis=0).astype(np.float64)


def decode_scrfd(levels: Levels, size: tuple[int, int]) -> Faces:
    """Faces of SCRFD's outputs for a picture of `size` (height, width): distances and landmarks from the cells."""
    boxes, scores, points = [], [], []
    for stride, (score, box, point) in zip(STRIDES, levels, strict=True):
        cells = _cells(stride, size, len(score) * stride**2 // (size[0] * size[1])) * stride
        boxes.append(np.concatenate([cells - box[:, :2] * stride, cells + box[:, 2:] * stride], axis=1))
        points.append(cells[:, None] + point.reshape(-1, 5, 2) * stride)
        scores.append(score[:, 0])
    return Faces(*(np.concatenate(parts).astype(np.float64) for parts in (boxes, scores, points)))


def decode_yunet(levels: Levels, size: tuple[int, int]) -> Faces:
    """Faces of YuNet's outputs for a picture of `size` (height, width): centre, logarithmic sides, landmarks."""
    boxes, scores, points = [], [], []
    for stride, (one, other, box, point) in zip(STRIDES, levels, strict=True):
        cells = _cells(stride, size, 1)
        centre, half = (cells + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=1))
        points.append((cells[:, None] + point.reshape(-1, 5, 2)) * stride)
        scores.append(np.sqrt(one[:, 0].clip(0, 1) * other[:, 0].clip(0, 1)))
    return Faces(*(np.concatenate(parts).astype(np.float64) for parts in (boxes, scores, points)))
