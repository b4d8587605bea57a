"""Hair, from cropped to long and from straight to curly, and beards."""

from types import SimpleNamespace

import numpy as np

from recordio_tools.sources.faces.curves import Patch, arc, ellipse, on_face, ribbon, spline, trace
from recordio_tools.sources.faces.head import Sitting
from recordio_tools.sources.faces.palette import blend

_CENTRE = np.array([0.0, -0.3, 0.0])


class Hair:
    """The two contours of a head of hair, both (B, 41, 3) from ear to ear over the top, and its length."""

    def __init__(self, s: Sitting):
        face = s.face
        w, h = face.face_width, face.face_height
        bald = np.clip((face.recession - 0.55) / 0.3, 0, 1)
        self.bun = np.clip(face.bun, 0, 1) * (bald == 0)
        self.length = np.clip((np.where(self.bun > 0, 0, face.hair_length) - 0.15) / 0.85, 0, 1)
        self.curl = np.clip(face.curl, 0, 1)
        side = face.hair_volume * np.where(self.length > 0, 1, 0.6) * (1 - 0.6 * bald)
        top = (face.hair_top + 0.8 * face.hair_volume) * (1 - 0.97 * bald)
        self.side, self.top = side, top
        right = [
            (0.52 * w + 0.4 * side, -1.28 * h - 0.95 * top, -0.05),
            (0.88 * w + 0.8 * side, -0.88 * h - 0.45 * top, -0.1),
            (0.97 * w + side, -0.34, -0.12),
            (0.965 * w + 0.42 * side, -0.06, -0.10),
            (0.93 * w, 0.16 + 0.1 * face.ear_size, 0.0),
        ]
        self.outer = self._curly(self._both(s, right, (0.0, -1.37 * h - top, -0.05)), face)
        # Over a bald crown the hairline meets the outer contour, and only the sides keep their hair.
        self.bald, t = bald, np.linspace(0, 1, self.outer.shape[1])
        crown = np.clip((0.3 - np.abs(t - 0.5)) / 0.1, 0, 1) * bald[:, None]
        inner = self._hairline(s)
        self.inner = inner + crown[..., None] * (self.outer - inner)

    @staticmethod
    def _both(s: Sitting, right: list[tuple], middle: tuple) -> np.ndarray:
        left = [(-x, y, z) for x, y, z in reversed(right)]
        return spline(trace(len(s), *left, middle, *right), 4, closed=False)

    def _curly(self, curve: np.ndarray, face: SimpleNamespace) -> np.ndarray:
        """Scallops a contour outwards by the size of the curls."""
        t = np.linspace(0, 1, curve.shape[1])
        count = 17 - 8 * face.curl_size
        bumps = np.abs(np.sin(np.pi * count[:, None] * t)) * (self.curl * (0.05 + 0.07 * face.curl_size))[:, None]
        out = curve - _CENTRE
        return curve + out * (bumps / np.sqrt((out[..., :2] ** 2).sum(-1)))[..., None]

    def _hairline(self, s: Sitting) -> np.ndarray:
        face, w = s.face, s.face.face_width
        recess = np.clip(face.recession, 0, 1)
        line = face.hairline - 0.18 * recess
        sweep = np.clip(face.fringe, 0, 1) * (1 - recess)

        def height(x: np.ndarray) -> np.ndarray:
            apart = np.abs(x - 0.8 * face.parting)
            temple = 0.30 * recess * np.exp(-(((np.abs(x) - 0.5) / 0.2) ** 2))
            curve = 0.32 * (np.abs(x) / w) ** 3
            return line + curve - temple + sweep * 0.80 * apart / (apart + 0.30) * (1 - 0.5 * np.abs(x))

        xs = [0.26, 0.50, 0.70]
        side = [(0.84 * w, -0.42 - 0.12 * recess, 0.1), (0.915 * w, 0.15, 0.0)]
        right = [(k * w, height(k * w), 0) for k in xs] + side
        left = [(-k * w, height(-k * w), 0) for k in reversed(xs)]
        left = [(-x, y, z) for x, y, z in reversed(side)] + left
        peak = height(np.zeros(len(s))) + face.widows_peak * (sweep < 0.2)
        curve = spline(trace(len(s), *left, (0, peak, 0), *right), 4, closed=False)
        # Hair leaves the surface of the face towards the ears, where it is seen edge on.
        return on_face(curve) * (1, 1, 0.50)


def back_hair(s: Sitting, hair: Hair) -> list[Patch]:
    """What hangs behind the neck, a bun, and the scalp that thin hair lets through."""
    face, palette = s.face, s.palette
    w, side = face.face_width, hair.side * np.clip(hair.length * 5, 0, 1)
    end = 0.25 + 2.15 * hair.length
    right = [
        (0.80 * w, -0.95, -0.3),
        (0.96 * w + side, -0.2, -0.35),
        (0.95 * w + 1.15 * side, 0.25 + (end - 0.25) * 0.5, -0.35),
        (0.90 * w + 1.25 * side, end - 0.1, -0.3),
        (0.55 * w, end + 0.08, -0.3),
        (0.0, end + 0.02, -0.3),
    ]
    outline = spline(trace(len(s), (0, -1.1, -0.3), *right), 4, closed=False)
    wave = np.sin(np.linspace(0, 1, outline.shape[1]) * np.pi * 9) * (hair.curl * 0.09)[:, None]
    outline = outline + np.stack([np.abs(wave), 0 * wave, 0 * wave], axis=2)
    outline = np.concatenate([outline, outline[:, ::-1] * (-1, 1, 1)], axis=1)
    radius = 0.20 + 0.22 * hair.bun
    bun = ellipse(
        0.15 * face.parting, -1.38 * face.face_height - hair.top - 0.55 * radius, -0.3, radius * 1.1, radius, 18
    )
    return [
        Patch(bun, palette.hair * 0.86, (hair.bun > 0) * 1.0, turn=0),
        Patch(outline, palette.hair_dark * 0.92, (hair.length > 0.10) * 1.0, turn=0),
        Patch(hair.outer, palette.skin, (hair.bald > 0) * 1.0, turn=0.3),
    ]


def front_hair(s: Sitting, hair: Hair) -> list[Patch]:
    """The cap of hair that frames the face, its strands and parting, and locks that fall before the shoulders."""
    face, palette = s.face, s.palette
    hairline = hair.inner[:, ::-2]
    cap = np.concatenate([hair.outer, hairline], axis=1)
    patches = [*_locks(s, hair), Patch(cap, palette.hair, turn=0.3)]
    shadow = np.concatenate([hairline, hairline[:, ::-1] + (0, 0.10, 0)], axis=1)
    patches.append(Patch(shadow, 0.80, turn=0.3, shade=True))
    split = 0.5 + 0.18 * face.parting
    ends = (np.full(len(s), 0.30), np.full(len(s), 0.70))
    outer, inner = (arc(c, *ends, 16) for c in (hair.outer, hair.inner))
    arch = 0.14 * np.sin(np.linspace(0, np.pi, 16))[:, None]
    shine = np.concatenate(
        [outer + (inner - outer) * (0.42 - arch), (outer + (inner - outer) * (0.46 + arch))[:, ::-1]], axis=1
    )
    patches.append(Patch(shine, 1.34 - 0.2 * hair.curl, (hair.bald == 0) * 1.0, turn=0.3, shade=True))
    wavy = (np.sin(np.linspace(0, 1, 10) * 21.0) * (hair.curl * 0.05)[:, None])[..., None] * (0.4, 1, 0)
    for k, (share, drift) in enumerate(((0.22, 0.10), (0.40, -0.10), (0.60, 0.12), (0.80, -0.08))):
        tone = palette.hair_light if k % 2 else palette.hair_dark
        for sign, end in ((-1, 0.05), (1, 0.95)):
            near = arc(hair.outer, split + sign * 0.03 * k, np.full(len(s), end), 10)
            far = arc(hair.inner, split + sign * 0.03 * k, np.full(len(s), end), 10)
            blend_in = share + drift * np.linspace(-1, 1, 10)[:, None] * sign
            path = near * (1 - blend_in) + far * blend_in + wavy * (1 if k % 2 else -1)
            patches.append(Patch(ribbon(path, 0.09 if k % 2 else 0.07), tone, 0.50 * (hair.bald < 0.5), turn=0.3))
    seam = np.stack([arc(c, split, split, 1)[:, 0] for c in (hair.outer, hair.inner)], axis=1)
    seam[:, 0] = seam[:, 0] * 0.55 + seam[:, 1] * 0.45
    parted = np.clip(np.abs(face.parting) * 2 - 0.3, 0, 1) * (hair.curl < 0.5) * (hair.bald == 0)
    patches.append(Patch(seam, blend(palette.hair_dark, palette.skin, 0.45), parted * 0.8, 0.035, turn=0.3))
    return patches


def _locks(s: Sitting, hair: Hair) -> list[Patch]:
    face, palette = s.face, s.palette
    w, side = face.face_width, hair.side
    end = 0.25 + 2.0 * hair.length
    inside = trace(
        len(s),
        (0.86 * w, -0.75, 0.05),
        (0.90 * w, -0.1, 0),
        (0.86 * w, 0.25 + (end - 0.25) * 0.45, 0.02),
        (0.80 * w, end, 0),
    )
    outside = trace(
        len(s), (0.94 * w + side * 0.8, -0.70, -0.1), (0.96 * w + side, -0.1, -0.1),
        (0.95 * w + side * 1.1, 0.25 + (end - 0.25) * 0.55, -0.1), (0.93 * w + side * 1.0, end - 0.12, -0.1),
    )  # fmt: skip
    inside, outside = (spline(c, 4, closed=False) for c in (inside, outside))
    wave = (np.sin(np.linspace(0, 1, inside.shape[1]) * 16) * (hair.curl * 0.08)[:, None])[..., None] * (1, 0, 0)
    shown = (hair.length > 0.12) * 1.0
    patches = []
    for mirror in (-1.0, 1.0):
        lock = np.concatenate([inside + wave * 0.5, (outside + wave)[:, ::-1]], axis=1) * (mirror, 1, 1)
        patches.append(Patch(lock, palette.hair, shown, turn=0.1))
        for share, tone in ((0.35, palette.hair_dark), (0.7, palette.hair_light)):
            strand = (inside * (1 - share) + outside * share + wave)[:, 2:-1] * (mirror, 1, 1)
            patches.append(Patch(ribbon(strand, 0.09), tone, 0.5 * shown, turn=0.1))
    return patches


def beard(s: Sitting) -> list[Patch]:
    """Stubble, goatee or full beard, and a moustache; drawn before the lips."""
    face, palette, size = s.face, s.palette, len(s)
    amount = np.clip(face.beard, 0, 1)
    colour = blend(palette.hair * 0.88, palette.skin_deep, 0.12)
    start = 0.375 - 0.150 * face.beard_width
    outer = arc(s.outline, start, 1 - start, 31)
    ramp = np.sin(np.linspace(0, np.pi, 31))
    long = (face.beard_length * np.clip(amount * 2 - 0.5, 0, 1))[:, None] * ramp**2
    rough = 0.012 * np.sin(np.arange(31) * 2.4)
    outer = outer + np.stack([0 * long, long + rough, 0 * long], axis=2)
    corner = face.mouth_width + 0.13
    cheek = corner + (0.66 * face.face_width - corner) * face.beard_width
    low = s.mouth_y + face.lip_lower + 0.10 + 0.30 * s.jaw_open
    right = [
        (0.09, low, 0), (face.mouth_width * 0.75, s.mouth_y + 0.14, 0), (corner, s.mouth_y - 0.02, 0),
        (cheek, s.mouth_y - 0.02 - 0.20 * face.beard_width, 0),
    ]  # fmt: skip
    middle = on_face(trace(size, *right, *[(-x, y, z) for x, y, z in reversed(right)]))[:, [3, 2, 1, 0, 7, 6, 5, 4]]
    shape = np.concatenate([outer, spline(middle[:, ::-1], 3, closed=False)], axis=1)
    thick = np.clip(face.moustache, 0, 1)
    wide = face.mouth_width * face.moustache_width
    high = s.nose_y + 0.10
    tip_y = s.mouth_y + 0.02 - 0.06 * np.clip(s.shot.smile, 0, 1)
    half = [(0.10, high - 0.01, 0), (wide * 0.62, (high + tip_y) / 2 - 0.02, 0), (wide, tip_y, 0)]
    back = [(wide * 0.55, tip_y - face.lip_upper * 0.6, 0), (0.0, s.mouth_y - face.lip_upper * 0.75, 0)]
    left = [(-x, y, z) for x, y, z in reversed(half + back[:1])]
    whiskers = on_face(trace(size, (0, high + 0.02, 0), *half, *back, *left), 0.06)
    return [
        Patch(shape, colour, np.clip(amount * 1.4 + 0.12, 0, 0.88) * (amount > 0), turn=0.6),
        Patch(spline(whiskers, 3), colour, np.clip(thick * 1.4 + 0.15, 0, 0.90) * (thick > 0)),
    ]
