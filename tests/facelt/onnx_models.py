"""Small recognisers in ONNX, of every kind that people have: what they give is known by hand.

The feature is what each of a few fixed pixels holds, less the picture's mean: pixels are told apart, and so are people.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

PIXELS = 12  # numbers of a feature


def weights(height: int, width: int) -> np.ndarray:
    """(3·height·width) x PIXELS, float32: which numbers of a flattened picture make the feature."""
    return np.random.default_rng(3).standard_normal((3 * height * width, PIXELS)).astype(np.float32)


def by_hand(images_NHW3: np.ndarray) -> np.ndarray:
    """The feature of normalised pictures (channels last), N x PIXELS, float64."""
    flat = images_NHW3.transpose(0, 3, 1, 2).reshape(len(images_NHW3), -1).astype(np.float64)
    return flat @ weights(*images_NHW3.shape[1:3]).astype(np.float64)


def write_model(
    path: Path,
    *,
    batch: int | str = "n",
    size: tuple[int, int] = (16, 16),
    number: int = TensorProto.FLOAT,
    last: bool = False,
    inside: tuple[tuple[str, list[float]], ...] = (),
    outputs: tuple[str, ...] = ("feature",),
    second_input: bool = False,
    times: float = 1.0,
    one_by_one: bool = False,
) -> Path:
    """A model at `path`. number: of its input. last: channels last. inside: what its graph does to the pixels first.

    outputs: of "feature" (N x PIXELS), "norm" (N x 1), "map" (N x 3 x H x W), "twin" (as the feature). times: of the
    feature, such as nan. one_by_one: its graph keeps one image, whatever its input promises.
    """
    h, w = size
    nodes, constants, at = [], {}, "data"

    def add(kind: str, *operands: np.ndarray, **attributes) -> None:
        nonlocal at
        names = []
        for operand in operands:
            names.append(f"c{len(constants)}")
            constants[names[-1]] = operand
        made = f"x{len(nodes)}"
        nodes.append(helper.make_node(kind, [at, *names], [made], **attributes))
        at = made

    if number != TensorProto.FLOAT:
        add("Cast", to=TensorProto.FLOAT)
    if last:
        add("Transpose", perm=[0, 3, 1, 2])
    for kind, values in inside:
        value = np.array(values, np.float32)
        add(kind, value.reshape(1, 3, 1, 1) if len(values) == 3 else value.reshape(()))
    add("Identity")
    picture = at
    add("Flatten")
    add("MatMul", weights(h, w))
    add("Mul", np.float32(times) * np.ones(1, np.float32))
    if one_by_one:
        add("Reshape", np.array([1, PIXELS], np.int64))
    feature = at
    made = {"feature": (feature, [batch, PIXELS]), "twin": (feature, [batch, PIXELS])}
    made |= {"map": (picture, [batch, 3, h, w]), "norm": (feature, [batch, 1])}
    for name in outputs:
        of, _ = made[name]
        if name == "norm":
            nodes.append(helper.make_node("ReduceL2", [of], [name], axes=[1], keepdims=1))
        else:
            nodes.append(helper.make_node("Identity", [of], [name]))
    entries = [helper.make_tensor_value_info("data", number, [batch, h, w, 3] if last else [batch, 3, h, w])]
    if second_input:
        entries.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, 1]))
        nodes.append(helper.make_node("Identity", ["mask"], ["masked"]))
    exits = [helper.make_tensor_value_info(name, TensorProto.FLOAT, made[name][1]) for name in outputs]
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "small", entries, exits, kept), ir_version=8)
    model.opset_import[0].version = 17
    save(model, str(path))
    return path
