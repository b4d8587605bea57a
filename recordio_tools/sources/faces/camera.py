"""The backdrop before the sitter, and the camera: light, tone, blur, noise, greyscale, JPEG."""

import io
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageFilter

from recordio_tools.sources.faces.chance import uniforms
from recordio_tools.sources.faces.head import Sitting
from recordio_tools.sources.faces.palette import wheel

NOISE = 1 << 16
MIDDLE = 118  # contrast turns about this level


@lru_cache(maxsize=4)
def _noise(extra: int) -> np.ndarray:
    """Gaussian-like float32 numbers of variance 1, (NOISE + extra,), periodic; each the sum of six uniforms."""
    sums = uniforms(6, 0, 0, np.arange(NOISE)).sum(axis=1) - 3
    return np.resize((sums * np.sqrt(2)).astype(np.float32), NOISE + extra)


def tint(shot: SimpleNamespace) -> np.ndarray:
    """The colour of the light, (B, 3), as a factor on colours."""
    return 1 + shot.light_warmth[:, None] * (1, 0, -1)


class Photographer:
    """Prepares the canvas and finishes the pictures of one batch."""

    NEUTRAL = 150  # on the shade layer this value leaves a colour as it is; 255 makes it 1.7 times as light

    def __init__(self, s: Sitting, centre: np.ndarray, size: int):
        shot = s.shot
        self.shot, self.size, self.small = shot, size, max(size // 2, 1)
        self.backdrops = self._backdrops()
        self._aim_light(centre)

    def _aim_light(self, centre: np.ndarray) -> None:
        """A light from one side on a rounded head about centre (B, 2), in pixels.

        Its factor at a point (u, v) of the head is 1 + strength (¾ (light · (u, v)) + 0.9 (front − 0.72)), where
        front = 1 / (1 + 0.55 (u² + v²)) falls off from the middle; sums of terms in u and in v, each kept as a vector.
        """
        shot = self.shot
        grid = (np.arange(self.small) + 0.5) * (self.size / self.small)
        radius = (shot.scale * self.size * 24 / 112)[:, None]
        u = np.clip((grid - centre[:, :1]) / (1.25 * radius), -1.5, 1.5)
        v = np.clip((grid - centre[:, 1:]) / (1.65 * radius), -1.5, 1.5)
        strength = shot.light_strength[:, None]
        self.round = [(1 + 0.55 * u * u).astype(np.float32), (0.55 * v * v).astype(np.float32)[..., None]]
        across = 1 + strength * (0.75 * shot.light_x[:, None] * u - 0.9 * 0.72)
        self.tilt = [
            across.astype(np.float32),
            (0.75 * strength * shot.light_y[:, None] * v).astype(np.float32)[..., None],
        ]
        self.bulge = (0.9 * shot.light_strength).astype(np.float32)

    def _backdrops(self) -> np.ndarray:
        """Colours (B, 4, 4, 3) of a coarse grid: a plain wall, a gradient, or soft spots of light."""
        shot = self.shot
        base = wheel(shot.backdrop_hue, shot.backdrop_light, 0.28)
        keys = (shot.grain * 2.0**40).astype(np.int64)
        spots = uniforms(48, 0, 3, keys).reshape(-1, 4, 4, 3) - 0.5
        plain = np.broadcast_to(spots[:, :1, :1, :1] * np.linspace(-1, 1, 4)[:, None, None], spots.shape)
        busy = np.clip(shot.backdrop_pattern * 2.2 - 0.8, 0, 1)[:, None, None, None]
        muted = spots.mean(axis=3, keepdims=True) + 0.32 * spots
        grid = base[:, None, None] + 150 * (busy * muted + (1 - busy) * plain * 0.6)
        return np.clip(np.rint(grid * tint(shot)[:, None, None]), 0, 255).astype(np.uint8)

    def canvas(self, b: int) -> tuple[Image.Image, Image.Image]:
        """The colour layer at twice the size, the backdrop of picture b on it, and a neutral shade layer at half."""
        backdrop = Image.fromarray(self.backdrops[b]).resize((self.small, self.small), Image.Resampling.BICUBIC)
        picture = backdrop.resize((2 * self.size, 2 * self.size), Image.Resampling.NEAREST)
        return picture, Image.new("L", (self.small, self.small), self.NEUTRAL)

    def develop(self, b: int, picture: Image.Image, shade: Image.Image) -> Image.Image:
        """The finished picture b from its two painted layers."""
        shot, size = self.shot, self.size
        mode = "L" if shot.grey[b] > 0 else "RGB"
        picture = picture.reduce(2).convert(mode)
        if shot.blur[b] > 0:
            picture = picture.filter(ImageFilter.BoxBlur(float(shot.blur[b]) * size / 112))
        light = self._light(b, shade.filter(ImageFilter.BoxBlur(self.small / 40)))
        light = light.resize((size, size), Image.Resampling.BILINEAR).convert(mode)
        pixels = np.asarray(picture).astype(np.float32).ravel()
        pixels *= np.asarray(light).astype(np.float32).ravel()
        pixels *= np.float32(shot.brightness[b] * shot.contrast[b] / self.NEUTRAL)
        pixels += np.float32(MIDDLE * (1 - shot.contrast[b]))
        start = int(shot.grain[b] * NOISE)
        pixels += _noise(3 * size * size)[start : start + pixels.size] * np.float32(shot.noise[b])
        pixels = np.clip(pixels.astype(np.int16), 0, 255)  # several times as fast as on floats
        shape = (size, size) if mode == "L" else (size, size, 3)
        finished = Image.fromarray(pixels.astype(np.uint8).reshape(shape))
        return finished if mode == "RGB" else finished.convert("RGB")

    def _light(self, b: int, shade: Image.Image) -> Image.Image:
        """The shade layer of picture b under its light."""
        factor = self.bulge[b] / (self.round[0][b] + self.round[1][b])
        factor += self.tilt[0][b] + self.tilt[1][b]
        np.clip(factor, 0.2, 1.6, out=factor)
        factor *= np.asarray(shade)
        np.minimum(factor, 255, out=factor)
        return Image.fromarray(factor.astype(np.uint8))


def encode(picture: Image.Image, quality: int) -> bytes:
    """The picture as a baseline JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
