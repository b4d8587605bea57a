"""What differs between two pictures of one identity: pose, expression, light, things worn, and the camera."""

from typing import NamedTuple

import numpy as np

from recordio_tools.sources.faces.chance import bell, uniforms

STREAM = 2


class Nuisance(NamedTuple):
    """A parameter of a picture: its range, and the chance that it is there at all (else it is zero)."""

    name: str
    low: float
    high: float
    chance: float = 1.0


NUISANCES = (
    # pose: radians, face units, ratio
    Nuisance("roll", -0.26, 0.26),
    Nuisance("yaw", -0.62, 0.62),
    Nuisance("pitch", -0.34, 0.34),
    Nuisance("shift_x", -0.20, 0.20),
    Nuisance("shift_y", -0.16, 0.16),
    Nuisance("scale", 0.86, 1.18),
    # expression
    Nuisance("mouth_open", -0.45, 0.60),
    Nuisance("smile", -0.30, 1.00),
    Nuisance("brow_raise", -0.06, 0.10),
    Nuisance("eyelids", 0.00, 0.85, 0.35),
    Nuisance("gaze_x", -0.45, 0.45),
    Nuisance("gaze_y", -0.25, 0.25),
    # light
    Nuisance("light_x", -1.00, 1.00),
    Nuisance("light_y", -1.00, 0.45),
    Nuisance("light_strength", 0.05, 0.75),
    Nuisance("light_warmth", -0.11, 0.11),
    Nuisance("brightness", 0.74, 1.28),
    Nuisance("contrast", 0.66, 1.30),
    # surroundings
    Nuisance("backdrop_hue", 0.00, 1.00),
    Nuisance("backdrop_light", 0.15, 0.95),
    Nuisance("backdrop_pattern", 0.00, 1.00),
    Nuisance("clothes_hue", 0.00, 1.00),
    Nuisance("clothes_light", 0.10, 0.95),
    Nuisance("collar", 0.00, 1.00),
    Nuisance("glasses", 0.00, 1.00, 0.16),
    Nuisance("sunglasses", 0.50, 1.00, 0.04),
    Nuisance("mask", 0.00, 1.00, 0.05),
    # camera
    Nuisance("blur", 0.40, 1.30, 0.30),
    Nuisance("noise", 0.00, 9.0),
    Nuisance("quality", 45.0, 96.0),
    Nuisance("grain", 0.00, 1.00),
    Nuisance("grey", 0.00, 1.00),
)
NAMES = tuple(nuisance.name for nuisance in NUISANCES)
DTYPE = np.dtype([(name, "f8") for name in NAMES])


def draw_shots(
    seed: int, identities: np.ndarray, images: np.ndarray, grey: float = 0.3, zoom: float = 1.0
) -> np.recarray:
    """The nuisances of image images[b] of identity identities[b], both (B,), as a record array (B,).

    `grey` is the chance that a picture has no colour; `zoom` enlarges the face, 1 being a portrait.
    """
    u = uniforms(len(NUISANCES), seed, STREAM, identities, images)
    shot = np.empty(len(u), DTYPE)
    for (name, low, high, chance), column in zip(NUISANCES, u.T, strict=True):
        share = column if name in ("grain", "grey") else bell(np.minimum(column / chance, 1))
        shot[name] = np.where(column < chance, low + (high - low) * share, 0)
    shot["grey"] = shot["grey"] < grey
    shot["scale"] *= zoom
    return shot.view(np.recarray)
