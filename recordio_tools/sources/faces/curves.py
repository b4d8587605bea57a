"""Curves and patches in face units, for a batch of B pictures at once."""

from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import ArrayLike


@dataclass
class Patch:
    """One shape of a picture: a filled polygon, or a line where `width` is given.

    points: (B, n, 3) in face units, z towards the viewer. colour: (B, 3) in 0–255; on the shade layer, which covers
    what lies on it, a factor on lightness (B,). alpha: (B,) in 0–1, 0 leaves the shape out. width: (B,) in face units.
    head: 1 moves with the head, 0 stays with the body; a scalar or (n,). turn: 1 for what lies on the surface of
    the face and narrows as it turns away, 0 for an outline, which does not.
    """

    points: np.ndarray
    colour: np.ndarray | float
    alpha: np.ndarray | float = 1.0
    width: np.ndarray | float | None = None
    head: np.ndarray | float = 1.0
    turn: float = 1.0
    shade: bool = False


def trace(size: int, *coordinates: tuple) -> np.ndarray:
    """Points (B, n, 3) from n tuples (x, y, z) whose members are numbers or arrays (B,)."""
    points = np.empty((size, len(coordinates), 3))
    for k, (x, y, z) in enumerate(coordinates):
        points[:, k, 0], points[:, k, 1], points[:, k, 2] = x, y, z
    return points


def mirrored(half: np.ndarray) -> np.ndarray:
    """A closed outline from its right half, whose first and last points lie on the axis of symmetry."""
    return np.concatenate([half, half[:, -2:0:-1] * (-1, 1, 1)], axis=1)


def flip(points: np.ndarray) -> np.ndarray:
    """The mirror image about x = 0."""
    return points * (-1, 1, 1)


@lru_cache
def _catmull_rom(steps: int) -> np.ndarray:
    t = np.arange(steps) / steps
    return 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])


def spline(points: np.ndarray, steps: int = 4, closed: bool = True) -> np.ndarray:
    """The Catmull-Rom curve through points (B, n, 3), with `steps` points per segment."""
    if closed:
        before, after, beyond = (np.roll(points, -k, axis=1) for k in (-1, 1, 2))
        here = points
    else:
        padded = np.concatenate([points[:, :1], points, points[:, -1:]], axis=1)
        before, here, after, beyond = padded[:, :-3], padded[:, 1:-2], padded[:, 2:-1], padded[:, 3:]
    weights = _catmull_rom(steps)[:, :, None]
    terms = (w * p[:, :, None] for w, p in zip(weights, (before, here, after, beyond), strict=True))
    curve = reduce(np.add, terms)
    curve = curve.reshape(len(points), -1, 3)
    return curve if closed else np.concatenate([curve, points[:, -1:]], axis=1)


def arc(points: np.ndarray, start: np.ndarray, stop: np.ndarray, count: int) -> np.ndarray:
    """`count` points of a polyline (B, n, 3) between the fractions start and stop (B,) of its number of points."""
    place = (start[:, None] + (stop - start)[:, None] * np.linspace(0, 1, count)) * (points.shape[1] - 1)
    below = np.minimum(place.astype(int), points.shape[1] - 2)
    share = (place - below)[..., None]
    low = np.take_along_axis(points, below[..., None], axis=1)
    return low + share * (np.take_along_axis(points, below[..., None] + 1, axis=1) - low)


def ribbon(path: np.ndarray, width: float) -> np.ndarray:
    """A polygon (B, 2n − 2, 3) along a path (B, n, 3), `width` wide in the middle and pointed at both ends."""
    along = path[:, 2:, :2] - path[:, :-2, :2]
    length = np.sqrt((along**2).sum(-1, keepdims=True)) + 1e-9
    taper = np.sin(np.linspace(0, np.pi, path.shape[1]))[1:-1, None] * width / 2
    aside = np.zeros_like(path[:, 1:-1])
    aside[..., :2] = along[..., ::-1] * (-1, 1) / length * taper
    inner = path[:, 1:-1]
    return np.concatenate([path[:, :1], inner + aside, path[:, -1:], (inner - aside)[:, ::-1]], axis=1)


@lru_cache
def circle(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of `count` equally spaced angles."""
    angles = 2 * np.pi * np.arange(count) / count
    return np.cos(angles), np.sin(angles)


def ellipse(x: ArrayLike, y: ArrayLike, z: ArrayLike, rx: ArrayLike, ry: ArrayLike, count: int = 14) -> np.ndarray:
    """Ellipses (B, count, 3) about the centres (x, y, z); each argument is an array (B,) or a number."""
    cos, sin = circle(count)
    x, y, z, rx, ry = np.broadcast_arrays(*map(np.atleast_1d, (x, y, z, rx, ry)))
    z = np.broadcast_to(z[:, None], (len(z), count))
    return np.stack([x[:, None] + rx[:, None] * cos, y[:, None] + ry[:, None] * sin, z], axis=2)


def on_face(points: np.ndarray, lift: float | np.ndarray = 0.0) -> np.ndarray:
    """The same points with z set to the surface of an average face, an ellipsoid, plus `lift`."""
    x, y = points[..., 0] / 1.08, (points[..., 1] - 0.1) / 1.75
    lift = np.asarray(lift)
    z = 0.74 * np.sqrt(np.maximum(1 - x * x - y * y, 0.02)) + (lift[:, None] if lift.ndim == 1 else lift)
    return np.stack([points[..., 0], points[..., 1], z], axis=-1)


def raised(points: np.ndarray) -> np.ndarray:
    """The same points with z set to the surface of the face plus their own z, which so is a height above it."""
    return on_face(points) + (0, 0, 1) * points
