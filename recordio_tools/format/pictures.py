"""Encoded images, decoded by Pillow: what can go wrong, in one place."""

import struct
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

# Pillow answers corrupt files with all of these, depending on where its parsers stumble.
DECODE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


class Picture(NamedTuple):
    """A picture to pack: its file and its label, or labels of which the first is the identity."""

    path: Path
    label: int | list[float]


def image_size(encoded: np.ndarray | bytes) -> tuple[int, int]:
    """(height, width) by the image's own header. Raises one of DECODE_ERRORS."""
    with Image.open(BytesIO(bytes(encoded))) as image:
        return image.height, image.width


def decode_size(encoded: np.ndarray | bytes) -> tuple[int, int]:
    """(height, width) after decoding every pixel. Raises one of DECODE_ERRORS."""
    with Image.open(BytesIO(bytes(encoded))) as image:
        image.load()
        return image.height, image.width
