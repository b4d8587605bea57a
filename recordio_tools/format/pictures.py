"""Encoded images, decoded by Pillow: what is a picture, how it becomes 8-bit RGB, what can go wrong, in one place."""

import struct
from contextlib import suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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
# How the formats that Pillow reads begin; HEIF's brand stands behind the size of its first box.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"P5\n", b"P6\n", b"\0\0\0\x0cjP  ")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif")
HEAD_BYTES = 12
# What a set's images may be: the formats that both Pillow and DALI, the trainer's decoder, read …
DECODABLE = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
JPEG2000 = (b"\x00\x00\x00\x0c", b"\xff\x4f\xff\x51")
# … and what a file of those kinds begins with.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II", b"MM", b"RIFF", b"P", *JPEG2000)


class Picture(NamedTuple):
    """A picture to pack: its file, its label or labels, of which the first is the identity, and perhaps its landmarks.

    `landmarks` are five points in pixels, x0…x4 then y0…y4, of a face that is still to be aligned by them.
    """

    path: Path
    label: int | list[float]
    landmarks: tuple[float, ...] | None = None

    @property
    def identity(self) -> int:
        """The label, or the first of several."""
        return self.label if isinstance(self.label, int) else int(self.label[0])

    @property
    def further_labels(self) -> list[float]:
        """Those behind the identity: aligned mark, box, landmarks."""
        return [] if isinstance(self.label, int) else self.label[1:]

    def relabelled(self, identity: int) -> "Picture":
        """The same picture as another identity's."""
        return self._replace(label=identity if isinstance(self.label, int) else [identity, *self.label[1:]])


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes (HEAD_BYTES of it) is a picture, whatever its name."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    return head.startswith(SIGNATURES) or webp or bmp or (head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS)


@cache
def _knows_heic() -> bool:
    """Teach Pillow HEIC, where pillow-heif is installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
        return True
    return False


def open_picture(content: bytes) -> Image.Image:
    """An encoded picture, of HEIC too; nothing but its header is decoded yet. Raises one of DECODE_ERRORS."""
    if content[4:8] == b"ftyp" and not _knows_heic() and content[8:12] != b"avif":
        raise ValueError("HEIC needs pillow-heif: pip install pillow-heif")
    return Image.open(BytesIO(content))


def upright_rgb(image: Image.Image) -> Image.Image:
    """The first frame in 8-bit RGB, turned as EXIF says. Raises one of DECODE_ERRORS.

    Deep pictures are scaled as DALI scales them: 16 bits by 255/65535 (mxnet cuts the low byte off instead, which
    differs by one at most), floating point from 0..1. ValueError for values outside: they have no brightness.
    """
    image.seek(0)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        values, most = np.asarray(upright, np.float32), 1.0
    elif upright.mode.startswith("I"):
        values, most = np.asarray(upright).astype(np.float32), 65535.0
    else:
        return upright.convert("RGB")
    if not (values.min() >= 0 and values.max() <= most):
        raise ValueError(f"values {values.min():g} to {values.max():g} of mode {upright.mode}, expected 0 to {most:g}")
    return Image.fromarray(np.floor(values * np.float32(255 / most) + np.float32(0.5)).astype(np.uint8)).convert("RGB")


def image_size(encoded: np.ndarray | bytes) -> tuple[int, int]:
    """(height, width) by the image's own header. Raises one of DECODE_ERRORS."""
    with Image.open(BytesIO(bytes(encoded))) as image:
        return image.height, image.width


def decode_size(encoded: np.ndarray | bytes) -> tuple[int, int]:
    """(height, width) after decoding every pixel of an image of the DECODABLE formats. Raises one of DECODE_ERRORS."""
    content = bytes(encoded)
    if not content.startswith(BEGINNINGS):
        raise UnidentifiedImageError("not an image of a known format")
    with Image.open(BytesIO(content), formats=DECODABLE) as image:
        image.load()
        return image.height, image.width


def undecodable(encoded: np.ndarray | bytes) -> str | None:
    """Why an image has no place in a set, in a few words; None where Pillow decodes all of it."""
    try:
        decode_size(encoded)
    except UnidentifiedImageError:
        kind = _foreign_format(bytes(encoded))
        return f"{kind}, which training does not read" if kind else "not an image of a known format"
    except Exception as error:  # on hostile bytes Pillow's decoders raise whatever they stumble over
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _foreign_format(content: bytes) -> str | None:
    """The name that Pillow has for a picture of another format, such as GIF."""
    try:
        with Image.open(BytesIO(content)) as image:
            return image.format
    except DECODE_ERRORS:
        return None
