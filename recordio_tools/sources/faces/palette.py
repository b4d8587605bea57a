"""Natural colours from traits. Colours are float arrays (B, 3) in 0–255."""

from types import SimpleNamespace

import numpy as np
from numpy.typing import ArrayLike

SKIN = np.array(
    [(74, 46, 34), (104, 66, 46), (140, 94, 64), (178, 126, 92), (208, 158, 122), (228, 184, 152), (242, 208, 184)],
    float,
)
HAIR = np.array([(24, 20, 21), (38, 27, 24), (62, 42, 32), (94, 64, 43), (140, 102, 64), (204, 168, 112)], float)
IRIS = np.array([(48, 28, 20), (70, 42, 26), (96, 64, 36), (96, 100, 60), (90, 120, 110), (92, 130, 160)], float)


def ramp(stops: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Colours at `place` (B,) in 0–1 along equally spaced stops (n, 3)."""
    place = np.clip(place, 0, 1) * (len(stops) - 1)
    below = np.minimum(place.astype(int), len(stops) - 2)
    share = (place - below)[:, None]
    return stops[below] * (1 - share) + stops[below + 1] * share


def blend(first: np.ndarray, second: ArrayLike, share: ArrayLike) -> np.ndarray:
    """Colours (B, 3): first where share is 0, second, (B, 3) or (3,), where it is 1; share is a number or (B,)."""
    share = np.asarray(share)
    share = share[:, None] if share.ndim else share
    return first + (np.asarray(second, float) - first) * share


def wheel(hue: np.ndarray, light: np.ndarray, strength: np.ndarray | float) -> np.ndarray:
    """Colours of a hue in 0–1, a lightness in 0–1 and a colourfulness in 0–1, from a piecewise linear colour wheel."""
    turns = hue[:, None] + np.array([0, 1 / 3, 2 / 3])
    tent = np.clip(np.abs((turns % 1) * 6 - 3) - 1, 0, 1)
    grey = np.ones_like(tent)
    return 255 * light[:, None] * blend(grey, tent, strength)


class Palette:
    """The colours of a batch of identities, each (B, 3)."""

    def __init__(self, face: SimpleNamespace):
        tone = face.skin_tone
        self.skin = np.clip(ramp(SKIN, tone) + face.skin_hue[:, None] * np.array([5.0, 0.0, -9.0]), 0, 255)
        self.skin_dark = self.skin * (0.70, 0.62, 0.60)
        self.skin_deep = self.skin * (0.48, 0.38, 0.37)
        self.skin_light = blend(self.skin, (255, 244, 232), 0.30)
        # Fair hair and pale eyes are rarer the darker the skin.
        fairness = np.clip(tone * 1.5 - 0.35, 0.12, 1)
        colour = ramp(HAIR, face.hair_colour**1.1 * fairness)
        red = np.clip(face.hair_red, 0, 1) * np.clip(face.hair_colour, 0, 1) * fairness
        colour = blend(colour, colour * (1.35, 0.86, 0.62), red)
        grey = np.clip(face.hair_grey, 0, 1) * 1.3
        self.hair = blend(colour, (172, 169, 166), np.clip(grey, 0, 0.92))
        self.hair_dark = self.hair * 0.66
        self.hair_light = blend(self.hair * 1.18, (255, 240, 220), 0.10)
        self.brow = blend(self.skin_deep, self.hair * 0.62, face.brow_darkness)
        self.iris = np.clip(ramp(IRIS, face.iris_hue**1.2 * fairness) * face.iris_light[:, None], 0, 235)
        rosy = blend(self.skin * (0.86, 0.66, 0.64), np.array([178.0, 62, 70]), face.lip_colour * 0.62)
        self.lip = rosy
        self.lip_dark = rosy * (0.72, 0.62, 0.64)
        self.lip_light = blend(rosy, (255, 226, 220), 0.26)
