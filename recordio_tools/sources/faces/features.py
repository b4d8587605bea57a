"""Eyes, brows, nose and mouth."""

import numpy as np

from recordio_tools.sources.faces.curves import Patch, circle, ellipse, on_face, raised, spline, trace
from recordio_tools.sources.faces.head import Sitting
from recordio_tools.sources.faces.palette import blend

_ACROSS = np.linspace(-1, 1, 11)
# The lids as functions of the place across the eye, -1 at the nose and 1 outside; the upper peaks nearer the nose.
_UPPER = (1 - _ACROSS**2) ** 0.8 * (1 - 0.22 * _ACROSS)
_LOWER = (1 - _ACROSS**2) * (1 + 0.25 * _ACROSS)


class Eye:
    """The frame of one eye: from coordinates across (-1…1) and up (same unit) to points on the face."""

    def __init__(self, s: Sitting, side: float):
        face, shot = s.face, s.shot
        self.side = side
        self.x, self.y, self.size = face.eye_spacing, face.eye_height, face.eye_size
        self.tilt = face.eye_tilt
        squint = 0.16 * np.clip(shot.smile, 0, 1)
        opening = face.eye_opening * (1 - shot.eyelids) * (1 - squint) * (1 + 1.2 * np.maximum(shot.brow_raise, 0))
        self.upper = opening[:, None] * _UPPER - 0.10 * face.eye_opening[:, None] * shot.eyelids[:, None]
        self.lower = -(face.eye_opening * (0.52 - squint * 0.8) * (1 - 0.25 * shot.eyelids))[:, None] * _LOWER
        self.upper = np.maximum(self.upper, self.lower + 0.01)

    def place(self, across: np.ndarray, up: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Points (B, n, 3) on the face from across and up, (B, n) or (n,)."""
        across, up = np.broadcast_arrays(across, up)
        x = self.x[:, None] + self.size[:, None] * across
        y = self.y[:, None] - self.size[:, None] * (up + self.tilt[:, None] * across)
        return on_face(np.stack([self.side * x, y, np.zeros_like(x)], axis=2), lift)

    def band(self, first: np.ndarray, second: np.ndarray, stretch: float = 1.0) -> np.ndarray:
        """What lies between two lines across the eye, heights (B, 11); the second is `stretch` times as wide."""
        across = np.concatenate([_ACROSS, (_ACROSS * stretch)[::-1]])
        return self.place(across, np.concatenate([first, second[:, ::-1]], axis=1))

    def disc(self, x: np.ndarray, y: np.ndarray, radius: np.ndarray, count: int = 16) -> np.ndarray:
        """A disc about (x, y) of the eye, kept between the lids."""
        cos, sin = circle(count)
        across = np.clip(x[:, None] + radius[:, None] * cos, -0.97, 0.97)
        up = y[:, None] + radius[:, None] * sin
        place = (across + 1) * 5
        below = np.minimum(place.astype(int), 9)
        share = place - below
        high, low = (
            np.take_along_axis(lid, below, 1) * (1 - share) + np.take_along_axis(lid, below + 1, 1) * share
            for lid in (self.upper, self.lower)
        )
        return self.place(across, np.clip(up, low, high))


def eyes(s: Sitting) -> list[Patch]:
    """Both eyes: white, iris, pupil, highlight, lids and lashes."""
    face, shot, palette = s.face, s.shot, s.palette
    white = blend(np.full((len(s), 3), 238.0), palette.skin, 0.14)
    patches = []
    for side in (-1.0, 1.0):
        eye = Eye(s, side)
        gaze = side * shot.gaze_x * 0.8, -shot.gaze_y * 0.5 + 0.06 * face.eye_opening
        lash = face.lashes[:, None] * 1.6 * (0.7 + 0.5 * (_ACROSS + 1))
        fold_up = eye.upper + (face.eye_fold * 2.2)[:, None] + 0.10 + 0.25 * shot.eyelids[:, None] * _UPPER
        shut = eye.band(fold_up, eye.upper)
        shadow = eye.band(eye.upper, np.maximum(eye.upper - 0.16, eye.lower))
        lashes = eye.band(eye.upper - 0.02, eye.upper + lash, 1.07)
        glint_x = gaze[0] + 0.16 * side * np.sign(shot.light_x + 0.01)
        glint = eye.disc(glint_x, gaze[1] + 0.17, np.full(len(s), 0.12), 8)
        radius = face.iris_size
        patches += [
            Patch(shut, palette.skin * (0.92, 0.84, 0.82), 0.7),
            Patch(eye.band(eye.upper, eye.lower), white),
            Patch(eye.disc(*gaze, radius), palette.iris * 0.55),
            Patch(eye.disc(*gaze, radius * 0.82), palette.iris),
            Patch(eye.disc(*gaze, radius * 0.42, 10), np.full((len(s), 3), 14.0)),
            Patch(shadow, np.full((len(s), 3), 30.0), 0.30),
            Patch(glint, np.full((len(s), 3), 252.0), 0.95),
            Patch(lashes, blend(palette.skin_deep * 0.45, palette.hair_dark * 0.4, 0.5), 0.92),
            Patch(eye.place(_ACROSS, eye.lower), palette.skin_dark * (0.8, 0.7, 0.7), 0.8, 0.03),
            Patch(eye.place(_ACROSS * 1.03, fold_up), palette.skin_deep, 0.55, 0.025),
        ]
    return patches


def brows(s: Sitting) -> list[Patch]:
    """Both brows, thick at the nose and tapering outwards."""
    face, palette = s.face, s.palette
    across = np.linspace(0, 1, 8)
    taper = face.brow_thickness[:, None] * (0.85 + 0.5 * across - 1.2 * across**2.5)
    x = face.brow_spacing[:, None] + 2 * face.brow_width[:, None] * across
    y = (face.eye_height - face.brow_gap - s.shot.brow_raise)[:, None] - face.brow_angle[:, None] * (across - 0.3)
    y = y - 4 * face.brow_arch[:, None] * across**1.5 * (1 - across)
    line = np.stack([x, y], axis=2)
    top = line - np.stack([0 * taper, taper / 2], axis=2)
    bottom = line + np.stack([0 * taper, taper / 2], axis=2)
    flat = np.concatenate([top, bottom[:, ::-1]], axis=1)
    flat = np.concatenate([flat, np.zeros_like(flat[..., :1])], axis=2)
    return [Patch(on_face(flat * (side, 1, 1), 0.05), palette.brow, 0.9) for side in (-1.0, 1.0)]


def nose(s: Sitting) -> list[Patch]:
    """The nose: the shadow beneath, two sides, and lights on ridge and tip."""
    face, palette = s.face, s.palette
    y, wide, tip, deep = s.nose_y, face.nose_width, face.nose_tip, face.nose_depth
    under = trace(
        len(s),
        (-wide * 0.95, y + 0.02, 0.12),
        (-tip, y - 0.02 - face.nose_turn, 0.25),
        (0, y + 0.05 + face.nose_turn, deep),
        (tip, y - 0.02 - face.nose_turn, 0.25),
        (wide * 0.95, y + 0.02, 0.12),
        (0, y + 0.09, 0.15),
    )
    middle = (face.eye_height - 0.12 + y) / 2 - 0.04
    ridge = on_face(ellipse(0, middle, 0, face.nose_bridge * 0.45, face.nose_length * 0.38), deep * 0.5)
    light = on_face(ellipse(0, y - 0.13 + face.nose_turn, 0, tip * 0.55, 0.075), deep)
    return [
        Patch(spline(raised(under), 3), palette.skin_dark, 0.75),
        *_nose_side(s, -1.0),
        *_nose_side(s, 1.0),
        Patch(ridge, 1.09, shade=True),
        Patch(light, palette.skin_light, 0.40),
    ]


def _nose_side(s: Sitting, side: float) -> list[Patch]:
    """One side of the nose: a soft flank and a firm edge, both darker away from the light, the wing and the nostril."""
    face, shot, palette, size = s.face, s.shot, s.palette, len(s)
    y, wide, tip, deep = s.nose_y, face.nose_width, face.nose_tip, face.nose_depth
    top = face.eye_height - 0.12
    away = np.clip(0.5 - 0.5 * side * (shot.light_x * 0.7 - 1.2 * shot.yaw), 0, 1)
    flank = trace(
        size,
        (face.nose_bridge * 0.9, top, 0.08),
        (face.nose_bridge * 1.9, top + 0.10, 0.0),
        (wide * 1.15, y - 0.12, 0.05),
        (wide * 1.05, y + 0.03, 0.06),
        (tip, y - 0.02, deep * 0.9),
        (face.nose_bridge, (top + y) / 2, deep * 0.5),
    ) * (side, 1, 1)
    edge = trace(
        size,
        (face.nose_bridge, top + 0.04, 0.10),
        (face.nose_bridge, (top + y) / 2, deep * 0.55),
        (tip * 0.9, y - 0.10, deep * 0.9),
    ) * (side, 1, 1)
    wing = trace(
        size,
        (wide * 0.80, y - 0.15, 0),
        (wide * 1.02, y - 0.06, 0),
        (wide * 0.96, y + 0.03, 0),
        (wide * 0.72, y + 0.03, 0),
    ) * (side, 1, 1)
    hole_x, hole_y = side * (tip * 0.35 + wide * 0.30), y + 0.01 - face.nose_turn * 0.5
    hole = ellipse(hole_x, hole_y, 0, face.nostrils * 1.5, face.nostrils * 0.75, 10)
    return [
        Patch(raised(flank), 1 - 0.24 * (0.25 + 0.75 * away), shade=True),
        Patch(raised(edge), palette.skin_dark, 0.65 * np.clip(away * 1.5 - 0.6, 0, 1), 0.04),
        Patch(on_face(spline(wing, 3, closed=False), 0.12), palette.skin_dark, 0.8, 0.04),
        Patch(on_face(hole, deep * 0.5), palette.skin_deep * (0.62, 0.5, 0.5), 0.85),
    ]


def _lip_lines(s: Sitting) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Top of the upper lip, its lower edge, top of the lower lip, its lower edge: each (B, 7, 3) from left to right."""
    face, shot = s.face, s.shot
    smile = np.clip(shot.smile, -1, 1)
    wide = face.mouth_width * (1 + 0.20 * smile) * (1 - 0.10 * s.jaw_open)
    gap = 0.30 * s.jaw_open
    y = s.mouth_y
    corner = y - face.lip_corners - 0.09 * smile + 0.25 * gap
    thin = 1 - 0.22 * np.clip(smile, 0, 1)
    up, low = face.lip_upper * thin, face.lip_lower * thin

    def line(middle: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        right = [(wide * 0.30, inner, 0), (wide * 0.68, outer, 0), (wide, corner, 0)]
        left = [(-x, h, z) for x, h, z in reversed(right)]
        return on_face(trace(len(s), *left, (0, middle, 0), *right), 0.08)

    sag = 0.03 * np.maximum(smile, 0)
    top = line(y - up * (1 - 0.45 * face.lip_bow), y - up * 1.05, (y - up * 0.55 + corner) / 2)
    seam_up = line(y + 0.012 + sag, y - 0.004 + sag, (y + corner) / 2 + sag * 0.5)
    seam_low = line(y + 0.012 + gap + sag, y + gap * 0.92 + sag, (y + corner) / 2 + gap * 0.55 + sag * 0.5)
    bottom = line(y + low + gap + sag, y + low * 0.93 + gap + sag, (y + low * 0.8 + corner) / 2 + gap * 0.65)
    return top, seam_up, seam_low, bottom


def mouth(s: Sitting) -> list[Patch]:
    """Lips, the line between them, and teeth where the mouth is open."""
    palette, size = s.palette, len(s)
    top, seam_up, seam_low, bottom = (spline(line, 3, closed=False) for line in _lip_lines(s))
    opened = (s.jaw_open > 0.04) * 1.0
    inside = np.concatenate([seam_up, seam_low[:, ::-1]], axis=1)
    teeth_low = seam_up + np.minimum(seam_low - seam_up, 0.09)
    teeth = np.concatenate([seam_up, teeth_low[:, ::-1]], axis=1)[:, 3:-3]
    gloss = ellipse(0, bottom[:, 9, 1] - 0.5 * s.face.lip_lower, 0, s.face.mouth_width * 0.35, s.face.lip_lower * 0.18)
    below = on_face(ellipse(0, bottom[:, 9, 1] + 0.07, 0, s.face.mouth_width * 0.55, 0.06))
    return [
        Patch(below, 0.80, shade=True),
        Patch(inside, np.ones((size, 3)) * (62, 22, 26), opened),
        Patch(teeth, np.ones((size, 3)) * (236, 230, 220), opened * (s.jaw_open + np.maximum(s.shot.smile, 0) > 0.3)),
        Patch(np.concatenate([top, seam_up[:, ::-1]], axis=1), palette.lip * 0.93),
        Patch(np.concatenate([seam_low, bottom[:, ::-1]], axis=1), palette.lip),
        Patch(on_face(gloss, 0.12), palette.lip_light, 0.55),
        Patch(seam_up, palette.lip_dark * 0.72, 0.85, 0.028),
    ]
