"""Encoded images, decoded by Pillow: what can go wrong, in one place."""

import struct
from io import BytesIO

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


def image_size(encoded: np.ndarray | bytes) -> tuple[int, int]:
    """(height, width) by the image's own header. Raises one of DECODE_ERRORS."""
    with Image.open(BytesIO(encoded)) as image:
        return image.height, image.width


def decode_size(encoded: np.ndarray | bytes) -> tuple[int, int]:
    """(height, width) after decoding every pixel. Raises one of DECODE_ERRORS."""
    with Image.open(BytesIO(encoded)) as image:
        image.load()
        return image.height, image.width
