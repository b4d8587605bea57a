"""From traits and nuisances to pictures: where each point falls, and the painting of patches in order."""

import numpy as np
from PIL import Image, ImageDraw

from recordio_tools.sources.faces import features, hair, head, worn
from recordio_tools.sources.faces.camera import Photographer, tint
from recordio_tools.sources.faces.curves import Patch
from recordio_tools.sources.faces.head import Sitting

OVERSAMPLE = 2  # patches are painted at twice the size and reduced, which smooths their edges
UNIT = 24 / 112  # pixels per face unit and pixel of the picture's side
FAINTEST = 6  # of 255: what is fainter is not painted
BLOCK = 32  # pictures whose points are projected together: they fit the cache
_NECK = 1.35  # the head rolls about this height


def patches(s: Sitting) -> list[Patch]:
    """All shapes of a batch of pictures, from the back to the front."""
    locks = hair.Hair(s)
    return [
        *hair.back_hair(s, locks),
        *head.body(s),
        *head.ears(s),
        *head.skin(s),
        *features.nose(s),
        *head.marks(s),
        *hair.beard(s),
        *features.mouth(s),
        *features.eyes(s),
        *features.brows(s),
        *worn.mask(s),
        *hair.front_hair(s, locks),
        *worn.glasses(s),
    ]


def project(points: np.ndarray, rigid: np.ndarray, turn: np.ndarray, shot: np.ndarray, size: int) -> np.ndarray:
    """Pixel coordinates (B, n, 2) of points (B, n, 3) in face units under each picture's pose.

    rigid (n,): 1 moves with the head, 0 stays with the body; turn (n,): how much of the cosine of the turn applies.
    """
    pose = {name: shot[name][:, None] for name in ("yaw", "pitch", "roll", "scale", "shift_x", "shift_y")}
    x, y, z = (np.ascontiguousarray(points[..., k]) for k in range(3))
    turned_x = x + (x * turn) * (np.cos(pose["yaw"]) - 1) + z * np.sin(pose["yaw"])
    turned_y = y + (y * turn) * (np.cos(pose["pitch"]) - 1) - z * np.sin(pose["pitch"])
    places = []
    for across, down, roll in ((x, y, 0.35 * pose["roll"]), (turned_x, turned_y, pose["roll"])):
        down = down - _NECK
        places.append(
            (across * np.cos(roll) - down * np.sin(roll), across * np.sin(roll) + down * np.cos(roll) + _NECK)
        )
    (body_x, body_y), (head_x, head_y) = places
    unit = size * UNIT * pose["scale"]
    across = size / 2 + unit * (body_x + rigid * (head_x - body_x) + pose["shift_x"])
    down = size / 2 + unit * (body_y + rigid * (head_y - body_y) + pose["shift_y"])
    return np.stack([across, down], axis=2)


def render(face: np.recarray, shot: np.recarray, size: int) -> list[Image.Image]:
    """Pictures of size × size pixels, RGB, one per row of the traits and nuisances, both (B,)."""
    s = head.sit(face, shot)
    shapes = patches(s)
    counts = [shape.points.shape[1] for shape in shapes]
    rigid = np.concatenate([np.broadcast_to(shape.head, (n,)) for shape, n in zip(shapes, counts, strict=True)])
    turn = np.repeat([shape.turn for shape in shapes], counts)
    centre = np.zeros((len(s), 1, 3))
    drawn = (np.broadcast_to(shape.points, (len(s), n, 3)) for shape, n in zip(shapes, counts, strict=True))
    points = np.concatenate([centre, *drawn], axis=1)
    rigid, turn = np.append(1.0, rigid), np.append(1.0, turn)
    blocks = [slice(k, k + BLOCK) for k in range(0, len(s), BLOCK)]
    places = np.concatenate([project(points[block], rigid, turn, shot[block], size) for block in blocks])
    photographer = Photographer(s, places[:, 0], size)
    strokes = Strokes(shapes, counts, places[:, 1:], shot.scale * size * UNIT, tint(s.shot))
    return [photographer.develop(b, *strokes.paint(b, *photographer.canvas(b))) for b in range(len(s))]


class Strokes:
    """The shapes of a batch as plain numbers, ready to be drawn picture by picture."""

    def __init__(self, shapes: list[Patch], counts: list[int], places: np.ndarray, unit: np.ndarray, light: np.ndarray):
        size = len(places)
        shade = np.repeat([shape.shade for shape in shapes], counts)
        scale = np.where(shade, 0.5, OVERSAMPLE)[:, None]
        self.xy = (
            np.rint(places * scale).astype(np.float32).reshape(size, -1)
        )  # C floats, which Pillow reads as they lie
        self.ends = (2 * np.cumsum(counts)).tolist()
        self.shade = [shape.shade for shape in shapes]
        inks = np.zeros((size, len(shapes), 4))
        self.width = np.zeros((size, len(shapes)), int)
        for k, shape in enumerate(shapes):
            if shape.shade:
                inks[:, k, 0] = shape.colour * np.ones(size) * Photographer.NEUTRAL
            else:
                inks[:, k, :3] = shape.colour * light
            inks[:, k, 3] = shape.alpha * np.full(size, 255)
            if shape.width is not None:
                self.width[:, k] = np.maximum(np.rint(shape.width * unit * OVERSAMPLE), 1)
        self.inks = np.clip(np.rint(inks), 0, 255).astype(int)

    def paint(self, b: int, picture: Image.Image, shade: Image.Image) -> tuple[Image.Image, Image.Image]:
        """Paints picture b on its two layers, colour and shade, and returns both."""
        solid, glaze, soft = ImageDraw.Draw(picture), ImageDraw.Draw(picture, "RGBA"), ImageDraw.Draw(shade)
        xy, begin = self.xy[b], 0
        strokes = zip(self.ends, self.shade, self.inks[b].tolist(), self.width[b].tolist(), strict=True)
        for end, shaded, (red, green, blue, alpha), width in strokes:
            if alpha < FAINTEST:
                pass
            elif shaded:
                soft.polygon(xy[begin:end], fill=red)
            elif width:
                glaze.line(xy[begin:end], fill=(red, green, blue, alpha), width=width)
            elif alpha < 255:
                glaze.polygon(xy[begin:end], fill=(red, green, blue, alpha))
            else:
                solid.polygon(xy[begin:end], fill=(red, green, blue))
            begin = end
        return picture, shade
