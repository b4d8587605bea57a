"""The three nets against twins in numpy, written from their layers, and the cascade on drawn and real faces."""

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recordio_tools.align import mtcnn
from recordio_tools.align.mtcnn_weights import read_weights
from recordio_tools.sources.synthetic import Drawing, draw_jpegs

pytestmark = pytest.mark.skipif(find_spec("mtcnn") is None, reason="the package mtcnn is not installed")


class Twin:
    """A net on images float64[B, H, W, 3], as the paper has it: windows one by one, kernels as in the files."""

    def __init__(self, net: str):
        self.weights = {name: array.astype(np.float64) for name, array in read_weights(net).items()}

    def slope(self, x, layer):
        return np.where(x > 0, x, self.weights[f"{layer}.slope"] * x)

    def linear(self, x, layer):
        return x @ self.weights[f"{layer}.kernel"] + self.weights[f"{layer}.bias"]

    def conv(self, x, layer):
        kernel = self.weights[f"{layer}.kernel"]
        high, wide = kernel.shape[:2]
        out = np.zeros((len(x), x.shape[1] - high + 1, x.shape[2] - wide + 1, kernel.shape[3]))
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                out[:, i, j] = np.einsum("bhwc,hwco->bo", x[:, i : i + high, j : j + wide], kernel)
        return out + self.weights[f"{layer}.bias"]

    def hidden(self, x, layer):
        return self.slope(self.conv(x, layer), layer)

    @staticmethod
    def pool(x, side, *, same):
        """Stride 2; `same` pools what sticks out at the end as well."""
        high, wide = (-(-length // 2) if same else (length - side) // 2 + 1 for length in x.shape[1:3])
        return np.stack(
            [
                np.stack([x[:, 2 * i : 2 * i + side, 2 * j : 2 * j + side].max((1, 2)) for j in range(wide)], 1)
                for i in range(high)
            ],
            1,
        )

    def dense(self, x):
        flat = x.transpose(0, 2, 1, 3).reshape(len(x), -1)  # width, height, channels
        return self.slope(self.linear(flat, "dense"), "dense")


def softmax(x):
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return (shifted / shifted.sum(-1, keepdims=True))[..., 1]


def images(height: int, width: int) -> tuple[np.ndarray, torch.Tensor]:
    """Two random images, channels last for the twin and in the middle for the net."""
    x = np.random.default_rng(3).normal(size=(2, height, width, 3))
    return x, torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("height, width", [(12, 12), (17, 24)])
def test_p_net_is_its_twin(height, width):
    x, given = images(height, width)
    twin = Twin("pnet")
    y = twin.pool(twin.hidden(x, "conv1"), 2, same=True)
    y = twin.hidden(twin.hidden(y, "conv2"), "conv3")
    box, face = mtcnn.p_net(given, mtcnn.load_net("pnet", torch.float64))
    np.testing.assert_allclose(box.numpy().transpose(0, 2, 3, 1), twin.conv(y, "box"), atol=1e-10)
    np.testing.assert_allclose(face.numpy(), softmax(twin.conv(y, "face")), atol=1e-10)


def test_r_net_is_its_twin():
    x, given = images(24, 24)
    twin = Twin("rnet")
    y = twin.pool(twin.hidden(x, "conv1"), 3, same=True)
    y = twin.pool(twin.hidden(y, "conv2"), 3, same=False)
    y = twin.dense(twin.hidden(y, "conv3"))
    box, face = mtcnn.r_net(given, mtcnn.load_net("rnet", torch.float64))
    np.testing.assert_allclose(box.numpy(), twin.linear(y, "box"), atol=1e-10)
    np.testing.assert_allclose(face.numpy(), softmax(twin.linear(y, "face")), atol=1e-10)


def test_o_net_is_its_twin():
    x, given = images(48, 48)
    twin = Twin("onet")
    y = twin.pool(twin.hidden(x, "conv1"), 3, same=True)
    y = twin.pool(twin.hidden(y, "conv2"), 3, same=False)
    y = twin.pool(twin.hidden(y, "conv3"), 2, same=True)
    y = twin.dense(twin.hidden(y, "conv4"))
    box, face, points = mtcnn.o_net(given, mtcnn.load_net("onet", torch.float64))
    np.testing.assert_allclose(box.numpy(), twin.linear(y, "box"), atol=1e-10)
    np.testing.assert_allclose(face.numpy(), softmax(twin.linear(y, "face")), atol=1e-10)
    np.testing.assert_allclose(points.numpy(), twin.linear(y, "points"), atol=1e-10)


@pytest.fixture(scope="module")
def detector():
    return mtcnn.Mtcnn(0.9)


def grace_hopper() -> np.ndarray:
    """The photograph that matplotlib carries, 512×600 pixels."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not file.is_file():
        pytest.skip("this matplotlib carries no photograph")
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def test_a_real_face_has_its_landmarks_where_one_sees_them(detector):
    (faces,) = detector.detect([grace_hopper()])
    assert len(faces.scores_n) == 1
    seen = [[221, 193], [307, 188], [266, 238], [232, 278], [305, 273]]  # read off the picture
    assert np.abs(faces.points_n52[0] - seen).max() < 0.06 * 86


def test_faces_pasted_into_scenes_keep_their_landmarks(detector):
    """A face scaled, turned and moved by known amounts: its landmarks to 3 % of the eye distance where they must be."""
    picture = grace_hopper()[80:360, 110:420]
    (alone,) = detector.detect([picture])
    scenes, expected = [], []
    for scale, turn, place in [(1.0, 0.0, (300, 150)), (0.7, 0.1, (500, 200)), (1.3, -0.1, (420, 300))]:
        inverse = np.exp(-1j * turn) / scale
        offset = -inverse * complex(*place)
        rows = (inverse.real, -inverse.imag, offset.real, inverse.imag, inverse.real, offset.imag)
        pasted = Image.fromarray(picture).transform((1024, 768), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
        scenes.append(np.array(pasted))
        z = (alone.points_n52[0] @ [1, 1j] + 0.5 + 0.5j) * np.exp(1j * turn) * scale + complex(*place) - 0.5 - 0.5j
        expected.append(np.stack([z.real, z.imag], 1))
    for faces, points in zip(detector.detect(scenes), expected, strict=True):
        assert len(faces.scores_n) == 1
        error = np.linalg.norm(faces.points_n52[0] - points, axis=1).mean()
        assert error < 0.03 * np.linalg.norm(points[1] - points[0])


def test_most_drawn_faces_are_found_alone_or_in_a_batch(detector):
    jpegs = draw_jpegs(Drawing(0, 224, 0.0, 1.0), np.arange(12), np.zeros(12, int))
    pictures = [np.array(Image.open(BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs]
    pictures[3] = pictures[3][:200]  # another size among them
    together = detector.detect([*pictures, np.full((100, 80, 3), 90, np.uint8), np.zeros((5, 9, 3), np.uint8)])
    assert [len(faces.scores_n) for faces in together[-2:]] == [0, 0]
    assert sum(len(faces.scores_n) == 1 for faces in together) >= 10
    for picture, faces in zip(pictures[2:5], together[2:5], strict=True):
        (alone,) = detector.detect([picture])
        np.testing.assert_allclose(faces.points_n52, alone.points_n52, atol=1e-2)


def test_drawn_faces_pasted_into_scenes_keep_their_landmarks(detector):
    """As above, from drawn faces: nearly all to 3 % of the eye distance, which the cascade alone misses."""
    jpegs = draw_jpegs(Drawing(0, 224, 0.0, 1.0), np.arange(8), np.zeros(8, int))
    errors = []
    for jpeg in jpegs:
        face = Image.open(BytesIO(jpeg)).convert("RGB")
        scene = Image.new("RGB", (700, 500), (120, 130, 110))
        scene.paste(face.resize((180, 180), Image.Resampling.LANCZOS), (311, 97))
        alone, pasted = detector.detect([np.array(face), np.array(scene)])
        if len(alone.scores_n) == len(pasted.scores_n) == 1:
            expected = (alone.points_n52[0] + 0.5) * 180 / 224 - 0.5 + (311, 97)
            eyes = np.linalg.norm(expected[1] - expected[0])
            errors.append(np.linalg.norm(pasted.points_n52[0] - expected, axis=1).mean() / eyes)
    assert len(errors) >= 6
    assert np.median(errors) < 0.02
    assert np.mean(np.array(errors) < 0.03) >= 0.8


FACE_API = Path(__file__).parents[3] / "node_modules" / "@vladmandic" / "face-api" / "demo"


@pytest.mark.skipif(not FACE_API.is_dir(), reason="the npm package @vladmandic/face-api is not installed here")
def test_real_photographs_of_several_people(detector):
    counts = {}
    for number in range(1, 7):
        with Image.open(FACE_API / f"sample{number}.jpg") as image:
            image.thumbnail((1024, 1024))
            (faces,) = detector.detect([np.array(image.convert("RGB"))])
        counts[number] = len(faces.scores_n)
    assert counts == {1: 3, 2: 1, 3: 3, 4: 4, 5: 5, 6: 4}
