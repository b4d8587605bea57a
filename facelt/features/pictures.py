"""Pictures from memory, as a recogniser takes them: what decoding does to a set's images, done to a few."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facelt.errors import UserError
from facelt.features.recognisers import Recogniser

Picture = Image.Image | NDArray[np.uint8]


def as_pixels(pictures: Iterable[Picture], recogniser: Recogniser) -> NDArray[np.uint8]:
    """B pictures of any size, uint8 of shape B x H x W x 3, RGB: sized and cut as the recogniser's sets are.

    Raises UserError for what is neither a PIL image nor uint8 of shape H x W x 3.
    """
    return np.stack([_sized(_opened(picture), recogniser) for picture in pictures])


def normalised(pixels_BHW3: NDArray[np.uint8], recogniser: Recogniser) -> Tensor:
    """What `Recogniser.embed` takes, B x 3 x H x W."""
    mean, std = (np.array(values, np.float32) for values in (recogniser.mean, recogniser.std))
    scaled = (pixels_BHW3.astype(np.float32) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def _opened(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return Image.fromarray(picture)
    said = f"{picture.dtype} of shape {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
    raise UserError(f"a picture is {said}; expected a PIL image, or uint8 of shape H x W x 3 in the order R, G, B")


def _sized(image: Image.Image, recogniser: Recogniser) -> NDArray[np.uint8]:
    height, width = recogniser.image_size, recogniser.width or recogniser.image_size
    if recogniser.width is not None:  # covered, and the middle of that
        scale = max(height / image.height, width / image.width)
        large = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    else:
        side = recogniser.resize or width
        large = (side, side)
    if image.size != large:
        image = image.resize(large, Image.Resampling.BILINEAR)
    left, top = (large[0] - width) // 2, (large[1] - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))
