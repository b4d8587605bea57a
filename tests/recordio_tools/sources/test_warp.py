"""The similarity against Umeyama's own formula, and the warp against the landmarks that it must bring home."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recordio_tools.sources.warp import TEMPLATE_52, similarity, warp_face


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 2×3 similarity of least squared error, by the singular values of the covariance (equations 40 to 43)."""
    mean_source, mean_target = source.mean(0), target.mean(0)
    left, values, right = np.linalg.svd((target - mean_target).T @ (source - mean_source) / len(source))
    sign = np.diag([1, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ sign @ right
    scale = np.trace(np.diag(values) @ sign) / ((source - mean_source) ** 2).sum(1).mean()
    return np.column_stack([scale * rotation, mean_target - scale * rotation @ mean_source])


@given(seed=st.integers(0, 2**32 - 1))
def test_similarity_is_umeyamas(seed):
    random = np.random.default_rng(seed)
    points = random.normal(size=(5, 2)) * random.uniform(1, 1000) + random.normal(size=2) * 100
    a, b = similarity(points, TEMPLATE_52)
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    np.testing.assert_allclose(matrix, umeyama(points, TEMPLATE_52), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_points_of_no_face_are_refused(points):
    with pytest.raises(ValueError, match="landmarks"):
        similarity(points, TEMPLATE_52)


@pytest.mark.parametrize("scale", [0.4, 1, 2.6, 9])
@pytest.mark.parametrize("size", [112, 224])
def test_landmarks_come_to_the_template(scale, size):
    """Five soft dots, at a known scale and angle, whose centres of gravity must be the template's points."""
    turn = scale * np.exp(0.3j)
    points = (TEMPLATE_52[:, 0] + 1j * TEMPLATE_52[:, 1]) * turn + (150 + 20j) * scale
    y, x = np.mgrid[: int(200 * scale) + 1, : int(300 * scale) + 1]
    z = x + 1j * y
    dots = sum(np.exp(-(np.abs(z - point) ** 2) / (2 * (3 * scale) ** 2)) for point in points)
    image = Image.fromarray(np.rint(255 * dots).clip(0, 255).astype(np.uint8)).convert("RGB")
    aligned = np.asarray(warp_face(image, np.stack([points.real, points.imag], 1), size))[..., 0].astype(float)
    ratio = size / 112
    for x0, y0 in TEMPLATE_52 * ratio:
        left, top = int(x0 - 9 * ratio), int(y0 - 9 * ratio)
        window = aligned[top : top + int(18 * ratio) + 1, left : left + int(18 * ratio) + 1]
        rows, columns = np.indices(window.shape)
        found = np.array([(columns * window).sum(), (rows * window).sum()]) / window.sum() + [left, top]
        assert np.abs(found - [x0, y0]).max() < 0.15 * ratio
