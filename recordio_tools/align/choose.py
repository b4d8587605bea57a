"""Which detector looks for faces: MTCNN, or an ONNX file's."""

from importlib.util import find_spec
from pathlib import Path

from recordio_tools.align.faces import Detector
from recordio_tools.align.onnx_detectors import OnnxDetector
from recordio_tools.errors import UserError


def choose_detector(file: Path | None, threshold: float) -> Detector:
    """A detector of faces with a score from `threshold`: the file's, else MTCNN. Raises UserError for what it lacks."""
    if file is not None:
        return OnnxDetector(file, threshold)
    if missing := [name for name in ("torch", "torchvision") if find_spec(name) is None]:
        raise UserError(f"MTCNN needs {missing[0]}, which is not installed; run: pip install {missing[0]}")
    from recordio_tools.align.mtcnn import Mtcnn

    return Mtcnn(threshold)
