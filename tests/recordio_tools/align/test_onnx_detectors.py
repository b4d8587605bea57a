"""Both kinds of detector as tiny ONNX files with outputs that are known, and files of no known kind."""

import numpy as np
import pytest
from PIL import Image

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
