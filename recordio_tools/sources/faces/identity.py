"""Who a synthetic person is: the traits that stay the same in every picture of one identity.

Lengths are in face units: half the width of an average face is 1, the origin lies between the eyes, y points down.
"""

from typing import NamedTuple

import numpy as np

from recordio_tools.sources.faces.chance import bell, uniforms

STREAM = 1


class Trait(NamedTuple):
    """A parameter of an identity and its range for either sex; what falls below zero of an *amount* is absent."""

    name: str
    male: tuple[float, float]
    female: tuple[float, float]


TRAITS = (
    # skull
    Trait("face_width", (0.90, 1.08), (0.86, 1.04)),
    Trait("face_height", (0.93, 1.08), (0.92, 1.06)),
    Trait("forehead_width", (0.92, 1.06), (0.92, 1.06)),
    Trait("cheekbones", (0.95, 1.05), (0.96, 1.06)),
    Trait("cheeks", (0.90, 1.05), (0.90, 1.05)),
    Trait("jaw_width", (0.86, 1.14), (0.76, 1.02)),
    Trait("jaw_drop", (-0.06, 0.14), (-0.12, 0.06)),
    Trait("chin_width", (0.75, 1.45), (0.55, 1.15)),
    Trait("chin_length", (0.94, 1.07), (0.93, 1.04)),
    Trait("chin_cleft", (-1.0, 0.8), (-2.0, 0.5)),
    Trait("neck_width", (0.52, 0.74), (0.42, 0.56)),
    Trait("shoulders", (1.75, 2.35), (1.50, 1.95)),
    # skin
    Trait("skin_tone", (0.0, 1.0), (0.0, 1.0)),
    Trait("skin_hue", (-1.0, 1.0), (-1.0, 1.0)),
    Trait("blush", (0.0, 0.7), (0.1, 1.0)),
    Trait("freckles", (-1.8, 1.0), (-1.5, 1.0)),
    Trait("mole", (-1.0, 1.0), (-1.0, 1.0)),
    Trait("mole_place", (0.0, 1.0), (0.0, 1.0)),
    Trait("age", (-0.5, 1.0), (-0.6, 0.9)),
    # eyes
    Trait("eye_spacing", (0.37, 0.48), (0.37, 0.48)),
    Trait("eye_height", (-0.06, 0.08), (-0.06, 0.08)),
    Trait("eye_size", (0.165, 0.235), (0.18, 0.25)),
    Trait("eye_opening", (0.34, 0.62), (0.42, 0.72)),
    Trait("eye_tilt", (-0.16, 0.16), (-0.08, 0.22)),
    Trait("eye_fold", (0.0, 0.10), (0.02, 0.10)),
    Trait("eye_bags", (-0.6, 1.0), (-1.0, 0.8)),
    Trait("lashes", (0.02, 0.055), (0.04, 0.10)),
    Trait("iris_size", (0.42, 0.54), (0.44, 0.58)),
    Trait("iris_hue", (0.0, 1.0), (0.0, 1.0)),
    Trait("iris_light", (0.6, 1.3), (0.6, 1.3)),
    # brows
    Trait("brow_gap", (0.23, 0.36), (0.27, 0.42)),
    Trait("brow_width", (0.24, 0.34), (0.23, 0.32)),
    Trait("brow_thickness", (0.055, 0.125), (0.025, 0.085)),
    Trait("brow_arch", (0.0, 0.10), (0.02, 0.14)),
    Trait("brow_angle", (-0.16, 0.10), (-0.16, 0.13)),
    Trait("brow_spacing", (0.12, 0.25), (0.14, 0.25)),
    Trait("brow_darkness", (0.45, 1.0), (0.5, 1.0)),
    # nose
    Trait("nose_length", (0.50, 0.74), (0.46, 0.66)),
    Trait("nose_width", (0.19, 0.32), (0.16, 0.28)),
    Trait("nose_bridge", (0.07, 0.15), (0.05, 0.12)),
    Trait("nose_tip", (0.10, 0.19), (0.08, 0.16)),
    Trait("nose_turn", (-0.05, 0.05), (-0.06, 0.04)),
    Trait("nose_depth", (0.22, 0.46), (0.18, 0.38)),
    Trait("nostrils", (0.03, 0.065), (0.025, 0.055)),
    # mouth
    Trait("mouth_height", (0.24, 0.36), (0.24, 0.34)),
    Trait("mouth_width", (0.30, 0.46), (0.28, 0.43)),
    Trait("lip_upper", (0.04, 0.12), (0.06, 0.15)),
    Trait("lip_lower", (0.06, 0.15), (0.08, 0.18)),
    Trait("lip_bow", (0.0, 0.5), (0.1, 0.7)),
    Trait("lip_corners", (-0.04, 0.04), (-0.04, 0.05)),
    Trait("lip_colour", (0.0, 0.55), (0.2, 1.0)),
    # ears
    Trait("ear_size", (0.20, 0.32), (0.17, 0.28)),
    Trait("ear_width", (0.06, 0.20), (0.05, 0.16)),
    Trait("ear_height", (-0.05, 0.15), (-0.05, 0.15)),
    # hair
    Trait("hair_length", (-0.65, 0.75), (0.10, 1.10)),
    Trait("hair_volume", (0.02, 0.30), (0.08, 0.34)),
    Trait("hair_top", (0.00, 0.28), (0.00, 0.20)),
    Trait("hairline", (-1.08, -0.78), (-1.02, -0.74)),
    Trait("recession", (-0.9, 1.0), (-1.4, 0.3)),
    Trait("widows_peak", (-0.06, 0.12), (-0.06, 0.10)),
    Trait("parting", (-0.75, 0.75), (-0.75, 0.75)),
    Trait("fringe", (-0.35, 0.45), (-0.35, 0.60)),
    Trait("curl", (-0.9, 1.0), (-0.9, 1.0)),
    Trait("curl_size", (0.0, 1.0), (0.0, 1.0)),
    Trait("bun", (-4.0, 0.4), (-1.6, 0.6)),
    Trait("hair_colour", (0.0, 1.0), (0.0, 1.0)),
    Trait("hair_red", (-0.6, 1.0), (-0.6, 1.0)),
    Trait("hair_grey", (-3.0, 1.0), (-3.2, 0.9)),
    # beard
    Trait("beard", (-0.9, 1.0), (0.0, 0.0)),
    Trait("beard_width", (0.0, 1.0), (0.0, 1.0)),
    Trait("beard_length", (0.0, 0.28), (0.0, 0.28)),
    Trait("moustache", (-0.8, 1.0), (0.0, 0.0)),
    Trait("moustache_width", (0.6, 1.25), (0.6, 1.25)),
)
NAMES = tuple(trait.name for trait in TRAITS)
DTYPE = np.dtype([("male", "f8")] + [(name, "f8") for name in NAMES])
_MALE = np.array([trait.male for trait in TRAITS])
_FEMALE = np.array([trait.female for trait in TRAITS])


def draw_identities(seed: int, identities: np.ndarray) -> np.recarray:
    """The traits of identities (B,): a record array (B,) with a float64 field per trait, and `male`, 0 or 1."""
    u = uniforms(1 + len(TRAITS), seed, STREAM, identities)
    male = u[:, 0] < 0.5
    low, high = np.where(male[:, None, None], _MALE, _FEMALE).transpose(2, 0, 1)
    face = np.empty(len(u), DTYPE)
    face["male"] = male
    for name, values in zip(NAMES, (low + (high - low) * bell(u[:, 1:])).T, strict=True):
        face[name] = values
    return face.view(np.recarray)
