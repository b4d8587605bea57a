"""Things that come and go between two pictures of one person: glasses and masks."""

import numpy as np

from recordio_tools.sources.faces.curves import Patch, circle, on_face, raised, spline, trace
from recordio_tools.sources.faces.head import Sitting
from recordio_tools.sources.faces.palette import ramp

FRAMES = np.array([(24, 24, 28), (70, 40, 26), (120, 118, 116), (150, 46, 44), (36, 52, 96)], float)
CLOTH = np.array([(150, 190, 214), (226, 230, 232), (40, 42, 48), (120, 170, 150)], float)


def glasses(s: Sitting) -> list[Patch]:
    """Spectacles or sunglasses."""
    face, shot = s.face, s.shot
    kind = np.maximum(shot.glasses, shot.sunglasses)
    worn, dark = (kind > 0) * 1.0, (shot.sunglasses > 0) * 1.0
    colour = ramp(FRAMES, kind * 7 % 1)
    cos, sin = circle(24)
    power = (0.45 + 0.55 * (kind * 3 % 1))[:, None]
    wide, tall = 0.31 + 0.05 * (kind * 5 % 1), 0.21 + 0.08 * (kind * 11 % 1)
    x = (face.eye_spacing + 0.03)[:, None] + wide[:, None] * np.sign(cos) * np.abs(cos) ** power
    y = (face.eye_height + 0.05)[:, None] + tall[:, None] * np.sign(sin) * np.abs(sin) ** power
    lens = on_face(np.stack([x, y, 0 * x], axis=2), 0.12)
    thick = 0.035 + 0.05 * (kind * 13 % 1)
    bridge_x = face.eye_spacing + 0.03 - wide
    bridge = on_face(
        trace(len(s), (-bridge_x, face.eye_height, 0), (0, face.eye_height - 0.05, 0), (bridge_x, face.eye_height, 0)),
        0.16,
    )
    patches = [Patch(bridge, colour, worn, thick)]
    for side in (-1.0, 1.0):
        outer = face.eye_spacing + 0.03 + wide
        arm = trace(len(s), (outer, face.eye_height, 0.45), (0.95 * face.face_width, face.eye_height + 0.02, 0.0)) * (
            side,
            1,
            1,
        )
        ring = np.concatenate([lens, lens[:, :1]], axis=1) * (side, 1, 1)
        shine = lens[:, [13, 15, 17, 14]] * (0.97, 1, 1) * (side, 1, 1)
        patches += [
            Patch(arm, colour, worn, thick),
            Patch(ring, colour * 0.35 + 12, worn * (0.10 + 0.84 * dark)),
            Patch(shine, np.full((len(s), 3), 250.0), worn * 0.30),
            Patch(ring, colour, worn, thick),
        ]
    return patches


def mask(s: Sitting) -> list[Patch]:
    """A cloth mask over nose and mouth."""
    face, shot = s.face, s.shot
    worn = (shot.mask > 0) * 1.0
    colour = ramp(CLOTH, shot.mask * 5 % 1)
    w, chin = face.face_width, 1.42 * face.face_height * face.chin_length + 0.16 * s.jaw_open
    right = [
        (0.0, s.nose_y - 0.34, 0.30), (0.24, s.nose_y - 0.26, 0.12), (0.80 * w, 0.42, 0.02),
        (0.66 * w, 1.06, 0.02), (0.28, chin + 0.02, 0.05), (0.0, chin + 0.06, 0.1),
    ]  # fmt: skip
    points = trace(len(s), *right, *[(-x, y, z) for x, y, z in reversed(right[1:-1])])
    cloth = raised(spline(points, 4))
    patches = []
    for side in (-1.0, 1.0):
        for y in (0.46, 1.0):
            strap = trace(len(s), (0.74 * w, y, 0.25), (0.97 * w, 0.05 + 0.4 * y, -0.05)) * (side, 1, 1)
            patches.append(Patch(strap, colour * 0.9, worn, 0.03, turn=0.5))
    patches.append(Patch(cloth, colour, worn))
    for k in range(3):
        y = s.nose_y + 0.08 + 0.2 * k
        pleat = on_face(trace(len(s), (-0.6 * w, y - 0.02, 0), (0, y + 0.04, 0), (0.6 * w, y - 0.02, 0)), 0.12)
        patches.append(Patch(pleat, colour * 0.82, worn, 0.025))
    return patches
