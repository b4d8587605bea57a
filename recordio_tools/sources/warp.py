"""Faces warped to ArcFace's template by five points: the least-squares similarity, without reflection.

Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991. Template: insightface.
"""

import numpy as np
from PIL import Image

# Left eye, right eye, tip of the nose, left and right corner of the mouth as seen, in pixels of 112×112 whose centres
# have whole coordinates.
TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112


def similarity(points_52: np.ndarray, template_52: np.ndarray) -> tuple[complex, complex]:
    """(a, b) that take points to the template with the least squared error: z ↦ a·z + b, where z = x + iy.

    |a| is the scale, arg a the rotation. In complex numbers the least squares have one line for a solution; it is
    Umeyama's for the plane. Raises ValueError for points that are all one, or not finite.
    """
    source, target = (points[:, 0] + 1j * points[:, 1] for points in (points_52, template_52))
    centred = source - source.mean()
    spread = float(np.vdot(centred, centred).real)
    if not (np.isfinite(spread) and spread > 0):
        raise ValueError("the five landmarks are one point or not finite, expected those of a face")
    a = complex(np.vdot(centred, target - target.mean()) / spread)
    if a == 0:
        raise ValueError("the five landmarks lie as in no face")
    return a, complex(target.mean() - a * source.mean())


def warp_face(image: Image.Image, points_52: np.ndarray, size: int = TEMPLATE_SIZE) -> Image.Image:
    """The face of an RGB image with these landmarks (float[5, 2], pixels), aligned, size×size pixels.

    What lies outside the image is black. Large faces are averaged down by a whole factor first, so that none alias.
    Raises ValueError as `similarity` does.
    """
    a, b = similarity(points_52, TEMPLATE_52 * (size / TEMPLATE_SIZE))
    factor = max(1, int(1 / abs(a)))
    # Pillow counts from the corner of a pixel, landmarks from its centre; it wants the way back, from output to input.
    inverse = 1 / a
    half = 0.5 + 0.5j
    offset = (-inverse * (half + b) + half) / factor
    inverse /= factor
    rows = (inverse.real, -inverse.imag, offset.real, inverse.imag, inverse.real, offset.imag)
    reduced = image.reduce(factor) if factor > 1 else image
    return reduced.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
