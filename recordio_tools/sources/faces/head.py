"""Shoulders, neck, ears and the skin of the face."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from recordio_tools.sources.faces.curves import Patch, arc, ellipse, mirrored, on_face, spline, trace
from recordio_tools.sources.faces.palette import Palette, blend, wheel


@dataclass
class Sitting:
    """A batch of B pictures being drawn: the traits, the nuisances, and what several features need to agree on."""

    face: SimpleNamespace  # one array (B,) per trait
    shot: SimpleNamespace  # one array (B,) per nuisance
    palette: Palette
    outline: np.ndarray
    jaw_open: np.ndarray
    nose_y: np.ndarray
    mouth_y: np.ndarray

    def __len__(self) -> int:
        return len(self.mouth_y)


def columns(records: np.ndarray) -> SimpleNamespace:
    """The fields of a record array as contiguous arrays, which are several times as fast to use."""
    return SimpleNamespace(**{name: np.ascontiguousarray(records[name]) for name in records.dtype.names})


def sit(traits: np.ndarray, nuisances: np.ndarray) -> Sitting:
    """Works out the outline of the head and the heights of its features."""
    face, shot = columns(traits), columns(nuisances)
    jaw_open = np.maximum(shot.mouth_open, 0)
    w, h = face.face_width, face.face_height
    chin_y = 1.40 * h * face.chin_length + 0.16 * jaw_open
    half = trace(
        len(traits),
        (0.0, -1.36 * h, 0.0),
        (0.50 * w * face.forehead_width, -1.26 * h, 0.0),
        (0.84 * w * face.forehead_width, -0.84 * h, 0.0),
        (0.95 * w * face.forehead_width**0.5, -0.30, 0.0),
        (0.96 * w * face.cheekbones, 0.22, 0.0),
        (0.88 * w * (face.cheeks + face.cheekbones) / 2, 0.66, 0.05),
        (0.72 * w * face.jaw_width * face.cheeks**0.5, 1.00 * h + face.jaw_drop + 0.08 * jaw_open, 0.16),
        (0.40 * w * face.chin_width**0.8, chin_y - 0.14, 0.34),
        (0.15 * w * face.chin_width, chin_y - 0.01, 0.40),
        (0.0, chin_y, 0.40),
    )
    nose_y = face.eye_height + face.nose_length
    return Sitting(face, shot, Palette(face), spline(mirrored(half), 3), jaw_open, nose_y, nose_y + face.mouth_height)


def body(s: Sitting) -> list[Patch]:
    """Clothes, and the neck that joins them to the head."""
    face, shot, palette, size = s.face, s.shot, s.palette, len(s)
    reach, neck = face.shoulders, face.neck_width
    clothes = wheel(shot.clothes_hue, shot.clothes_light, 0.45)
    trunk = mirrored(
        trace(
            size,
            (0.0, 1.72, 0),
            (neck * 0.95, 1.66, 0),
            (neck + 0.42, 1.84, 0),
            (reach * 0.86, 2.06, 0),
            (reach * 1.02, 2.45, 0),
            (reach * 1.12, 3.6, 0),
            (0.0, 3.7, 0),
        )
    )
    column = mirrored(
        trace(
            size,
            (0.0, 0.5, 0.1),
            (neck, 0.6, -0.05),
            (neck * 0.97, 1.45, 0),
            (neck * 1.12, 1.74, 0),
            (neck * 0.8, 1.96 + 0.2 * shot.collar, 0),
            (0.0, 2.06 + 0.34 * shot.collar, 0),
        )
    )
    follows = np.array([1, 1, 0.5, 0, 0, 0, 0, 0, 0.5, 1])
    shadow = arc(s.outline, np.full(size, 0.27), np.full(size, 0.73), 20)
    shadow[..., 1] += 0.22
    shadow[..., 0] = np.clip(shadow[..., 0], -neck[:, None], neck[:, None])
    collar = spline(column[:, 3:8], 3, closed=False)
    return [
        Patch(spline(trunk, 3), clothes, head=0.0, turn=0),
        Patch(column, palette.skin * (0.93, 0.90, 0.89), head=follows, turn=0),
        Patch(shadow, 0.70, turn=0, shade=True),
        Patch(collar, clothes * 0.72, 1.0, 0.07, head=0.0, turn=0),
        *_jacket(s, clothes),
    ]


def _jacket(s: Sitting, clothes: np.ndarray) -> list[Patch]:
    """Lapels over a light shirt, on about a third of the pictures."""
    shot, neck = s.shot, s.face.neck_width
    shown = (shot.collar > 0.58) * 1.0
    shirt = blend(clothes, (236, 236, 232), 0.85)
    front = mirrored(
        trace(len(s), (0, 2.00, 0), (neck * 0.95, 1.70, 0), (neck * 0.9, 2.2, 0), (0.26, 2.8, 0), (0, 3.4, 0))
    )
    patches = [Patch(front, shirt, shown, head=0.0, turn=0)]
    for side in (-1.0, 1.0):
        lapel = trace(
            len(s), (neck * 0.85, 1.62, 0), (neck + 0.16, 1.74, 0), (0.72, 2.22, 0), (0.50, 2.36, 0), (0.12, 3.3, 0)
        ) * (side, 1, 1)
        patches.append(Patch(lapel, clothes * 0.80, shown, head=0.0, turn=0))
    return patches


def ears(s: Sitting) -> list[Patch]:
    """Both ears, behind the face."""
    face, palette = s.face, s.palette
    patches = []
    for side in (-1.0, 1.0):
        x = 0.96 * face.face_width * face.cheekbones + face.ear_width * 0.35
        y = 0.16 + face.ear_height + s.face.eye_height
        shell = ellipse(x, y, -0.12, face.ear_width + 0.05, face.ear_size)
        lean = np.stack([(y[:, None] - shell[..., 1]) * 0.28, 0 * shell[..., 1], 0 * shell[..., 1]], axis=2)
        hollow = ellipse(x + 0.02, y - 0.02, -0.12, (face.ear_width + 0.05) * 0.55, face.ear_size * 0.62) + lean
        patches += [
            Patch((shell + lean) * (side, 1, 1), palette.skin * (0.95, 0.88, 0.86), turn=0),
            Patch(hollow * (side, 1, 1), palette.skin_dark, 0.6, turn=0),
        ]
    return patches


def skin(s: Sitting) -> list[Patch]:
    """The face itself, and the soft forms that light and shade give it."""
    face, palette = s.face, s.palette
    patches = [Patch(s.outline, palette.skin, turn=0)]
    patches.append(Patch(s.outline[:, ::2], 1.0, turn=0, shade=True))
    rosy = palette.skin * (1.02, 0.76, 0.74)
    for side in (-1.0, 1.0):
        socket = on_face(ellipse(face.eye_spacing, face.eye_height - 0.10, 0, 0.27, 0.17) * (side, 1, 1))
        below = on_face(ellipse(0.66 * face.face_width, 0.92, 0, 0.16, 0.20) * (side, 1, 1))
        patches += [Patch(below, 0.89, shade=True), Patch(socket, 0.87, shade=True)]
        for radius in (1.0, 0.78, 0.55):
            cheek = ellipse(0.55 * face.face_width, 0.50, 0, 0.25 * radius, 0.19 * radius)
            patches.append(Patch(on_face(cheek * (side, 1, 1)), rosy, 0.22 * face.blush))
    brow = on_face(ellipse(0, -0.62, 0, 0.42, 0.20))
    chin = on_face(ellipse(0, s.mouth_y + 0.30 + 0.1 * s.jaw_open, 0, 0.17, 0.10))
    return [*patches, Patch(brow, 1.06, shade=True), Patch(chin, 1.06, shade=True)]


def marks(s: Sitting) -> list[Patch]:
    """What years and the sun leave: freckles, a mole, folds, bags, a cleft chin."""
    face, palette = s.face, s.palette
    patches = []
    speck = palette.skin * (0.80, 0.66, 0.56)
    for k in range(14):
        x = (0.16 + 0.075 * (k // 2) + 0.03 * ((k * 7) % 5 - 2)) * (1 if k % 2 else -1)
        y = 0.36 + 0.055 * ((k * 5) % 7 - 3) + 0.04 * face.mole
        dot = on_face(ellipse(x + 0.04 * face.mole_place, y, 0, 0.022, 0.022, 6))
        patches.append(Patch(dot, speck, np.clip(face.freckles, 0, 1)))
    mole_y = face.eye_height + 0.30 + 0.75 * face.mole_place
    mole_x = np.sign(face.mole) * (0.36 + 0.24 * np.abs(face.mole_place - 0.5))
    mole = on_face(ellipse(mole_x, mole_y, 0, 0.035, 0.035, 8))
    patches.append(Patch(mole, palette.skin_deep * (0.9, 0.7, 0.65), (np.abs(face.mole) > 0.55) * 1.0))
    years = np.clip(face.age, 0, 1)
    grin = np.clip(s.shot.smile, 0, 1)
    for side in (-1.0, 1.0):
        wing = face.nose_width + 0.05
        corner = face.mouth_width + 0.13 + 0.05 * grin
        fold = trace(
            len(s), (wing, s.nose_y - 0.04, 0), ((wing + corner) / 2 + 0.05, s.nose_y + 0.12, 0), (corner, s.mouth_y, 0)
        )
        bag = trace(
            len(s),
            (face.eye_spacing - face.eye_size * 0.7, face.eye_height + 0.13, 0),
            (face.eye_spacing, face.eye_height + 0.19, 0),
            (face.eye_spacing + face.eye_size * 0.8, face.eye_height + 0.12, 0),
        )
        strength = np.clip(0.62 * years + 0.30 * grin, 0, 0.8)
        patches += [
            Patch(on_face(spline(fold, 4, closed=False) * (side, 1, 1)), palette.skin_dark, strength, 0.035),
            Patch(
                on_face(spline(bag, 4, closed=False) * (side, 1, 1)),
                palette.skin_dark,
                0.6 * np.clip(face.eye_bags, 0, 1),
                0.04,
            ),
        ]
    for k in range(2):
        y = -0.52 - 0.13 * k - 0.5 * s.shot.brow_raise
        crease = on_face(trace(len(s), (-0.36, y, 0), (-0.12, y - 0.03, 0), (0.12, y - 0.03, 0), (0.36, y, 0)))
        patches.append(Patch(crease, palette.skin_dark, 0.5 * np.clip(years * 1.6 - 0.5, 0, 1), 0.025))
    chin_y = 1.40 * face.face_height * face.chin_length + 0.16 * s.jaw_open
    cleft = on_face(trace(len(s), (0, chin_y - 0.19, 0), (0, chin_y - 0.05, 0)))
    patches.append(Patch(cleft, palette.skin_dark, 0.7 * np.clip(face.chin_cleft, 0, 1), 0.035))
    return patches
