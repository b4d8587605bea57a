"""Both kinds of detector as tiny ONNX files with outputs that are known, and files of no known kind."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from recordio_tools.align import onnx_detectors
from recordio_tools.align.onnx_detectors import STRIDES, OnnxDetector
from recordio_tools.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 64
POINTS = np.array([[20, 22], [36, 22], [28, 30], [22, 38], [34, 38]], float)
BOX = np.array([12, 10, 44, 46], float)


def write(file, outputs: dict[str, np.ndarray], shape=(1, 3, SIDE, SIDE)):
    """A detector that says the same of every picture."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes, infos = [], []
    zero = helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0)
    nodes += [zero, helper.make_node("Sub", ["sum", "sum"], ["zero"])]
    tensors = []
    for name, value in outputs.items():
        tensors.append(onnx.numpy_helper.from_array(value.astype(np.float32), f"{name}_value"))
        nodes.append(helper.make_node("Add", [f"{name}_value", "zero"], [name]))
        infos.append(helper.make_tensor_value_info(name, floats, value.shape))
    image = helper.make_tensor_value_info("image", floats, shape)
    graph = helper.make_graph(nodes, "detector", [image], infos, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, file)
    return file


def scrfd(batched: bool) -> dict[str, np.ndarray]:
    """One face, at the second anchor of the cell (column 3, row 4) of stride 8, and one too weak beside it."""
    outputs = {}
    for what, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride in STRIDES:
            count = 2 * (SIDE // stride) ** 2
            outputs[f"{what}_{stride}"] = np.zeros((1, count, width) if batched else (count, width))
    row, cell = 2 * (4 * 8 + 3) + 1, np.array([24, 32])
    for name, value in {
        "score_8": 0.95,
        "bbox_8": np.concatenate([cell - BOX[:2], BOX[2:] - cell]) / 8,
        "kps_8": (POINTS - cell).ravel() / 8,
    }.items():
        outputs[name][..., row, :] = value
        outputs[name][..., row + 1, :] = 0.5
    return outputs


def yunet() -> dict[str, np.ndarray]:
    """One face, at the cell (column 1, row 1) of stride 16."""
    outputs = {
        f"{what}_{stride}": np.zeros((1, (SIDE // stride) ** 2, width))
        for what, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
        for stride in STRIDES
    }
    row = 1 * 4 + 1
    outputs["cls_16"][0, row], outputs["obj_16"][0, row] = 0.96, 0.94
    centre, sides = (BOX[:2] + BOX[2:]) / 2, BOX[2:] - BOX[:2]
    outputs["bbox_16"][0, row] = np.concatenate([centre / 16 - 1, np.log(sides / 16)])
    outputs["kps_16"][0, row] = (POINTS / 16 - 1).ravel()
    return outputs


@pytest.mark.parametrize("outputs, score", [(scrfd(False), 0.95), (scrfd(True), 0.95), (yunet(), np.sqrt(0.96 * 0.94))])
def test_a_face_is_decoded_and_scaled_to_the_picture(tmp_path, outputs, score):
    detector = OnnxDetector(write(tmp_path / "detector.onnx", outputs), 0.9)
    for picture, factor in ((np.zeros((64, 48, 3), np.uint8), 1), (np.zeros((96, 192, 3), np.uint8), 3)):
        (faces,) = detector.detect([picture])
        assert faces.scores_n == pytest.approx([score])
        shift = (factor - 1) / 2
        np.testing.assert_allclose(faces.boxes_n4, [BOX * factor + shift], atol=1e-3)
        np.testing.assert_allclose(faces.points_n52, [POINTS * factor + shift], atol=1e-3)
    (none,) = OnnxDetector(tmp_path / "detector.onnx", 0.99).detect([picture])
    assert len(none.scores_n) == 0


@pytest.mark.parametrize(
    "outputs",
    [
        {"boxes": np.zeros((1, 100, 4)), "scores": np.zeros((1, 100))},
        {name: value for name, value in scrfd(False).items() if not name.startswith("kps")},
        {**scrfd(False), "more": np.zeros((3, 3))},
    ],
)
def test_an_unknown_kind_is_named_in_one_line(tmp_path, outputs):
    with pytest.raises(UserError, match=r"a detector of an unknown kind, with outputs of .*expected SCRFD") as caught:
        OnnxDetector(write(tmp_path / "other.onnx", outputs), 0.9)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_detector(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a detector in ONNX"):
        OnnxDetector(tmp_path / "none.onnx", 0.9)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    with pytest.raises(UserError, match="is no ONNX file that onnxruntime loads"):
        OnnxDetector(tmp_path / "picture.png", 0.9)
    with pytest.raises(UserError, match=r"expected one input of float32 \[1, 3, H, W\]"):
        OnnxDetector(write(tmp_path / "grey.onnx", yunet(), (1, 1, SIDE, SIDE)), 0.9)


def test_yunet_is_decoded_as_opencv_decodes_it(tmp_path):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    outputs = {name: np.zeros_like(value) for name, value in yunet().items()}
    for stride in STRIDES:
        cells = (SIDE // stride) ** 2
        outputs[f"cls_{stride}"][0, :, 0] = rng.uniform(0.8, 1, cells)
        outputs[f"obj_{stride}"][0, :, 0] = rng.uniform(0.8, 1, cells)
        outputs[f"bbox_{stride}"][0] = rng.uniform(-0.6, 0.6, (cells, 4))
        outputs[f"kps_{stride}"][0] = rng.uniform(-1, 1, (cells, 10))
    file = write(tmp_path / "yunet.onnx", outputs)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    (ours,) = OnnxDetector(file, 0.95).detect([picture])
    theirs = cv2.FaceDetectorYN.create(str(file), "", (SIDE, SIDE), 0.95, 0.4, 5000).detect(picture)[1]
    assert len(ours.scores_n) == len(theirs) >= 10
    order = np.argsort(-theirs[:, -1])
    corners = np.concatenate([theirs[:, :2], theirs[:, :2] + theirs[:, 2:4]], axis=1)
    np.testing.assert_allclose(ours.scores_n, theirs[order, -1], atol=1e-5)
    np.testing.assert_allclose(ours.boxes_n4, corners[order], atol=1e-3)
    np.testing.assert_allclose(ours.points_n52, theirs[order, 4:14].reshape(-1, 5, 2), atol=1e-3)


@pytest.fixture
def insightface_scrfd(monkeypatch):
    """insightface's own SCRFD, without what else its package imports."""
    pytest.importorskip("cv2")
    found = find_spec("insightface")
    if found is None:
        pytest.skip("insightface is not installed")
    for name, inner in (("insightface", ""), ("insightface.model_zoo", "model_zoo")):
        package = ModuleType(name)
        package.__path__ = [str(Path(place) / inner) for place in found.submodule_search_locations]
        monkeypatch.setitem(sys.modules, name, package)
    return import_module("insightface.model_zoo.scrfd").SCRFD


@pytest.mark.parametrize("batched", [False, True])
def test_scrfd_is_decoded_as_insightface_decodes_it(tmp_path, insightface_scrfd, monkeypatch, batched):
    monkeypatch.setattr(onnx_detectors, "OVERLAP", 2.0)  # theirs counts pixels on both edges of a box
    rng = np.random.default_rng(0)
    outputs = {name: np.zeros_like(value) for name, value in scrfd(batched).items()}
    for stride in STRIDES:
        anchors = 2 * (SIDE // stride) ** 2
        outputs[f"score_{stride}"][..., 0] = np.where(rng.random(anchors) < 0.2, rng.uniform(0.9, 1, anchors), 0.1)
        outputs[f"bbox_{stride}"][...] = rng.uniform(0.2, 0.9, (anchors, 4))
        outputs[f"kps_{stride}"][...] = rng.uniform(-1, 1, (anchors, 10))
    file = write(tmp_path / "scrfd.onnx", outputs)
    for height, width in ((SIDE, SIDE), (3 * SIDE, 2 * SIDE)):
        picture = np.zeros((height, width, 3), np.uint8)
        (ours,) = OnnxDetector(file, 0.9).detect([picture])
        detector = insightface_scrfd(str(file))
        detector.nms_thresh = 2.0
        boxes, points = detector.detect(picture, input_size=(SIDE, SIDE), det_thresh=0.9)
        assert len(ours.scores_n) == len(boxes) >= 10
        order = np.argsort(-boxes[:, 4])
        shift = (height / SIDE - 1) / 2  # pixels by their centres here, by their corners there
        np.testing.assert_allclose(ours.scores_n, boxes[order, 4], atol=1e-5)
        np.testing.assert_allclose(ours.boxes_n4, boxes[order, :4] + shift, atol=1e-3)
        np.testing.assert_allclose(ours.points_n52, points[order] + shift, atol=1e-3)
