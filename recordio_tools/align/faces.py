"""What a detector says of a picture, and what all detectors share: boxes, and which of them are one face."""

from typing import NamedTuple, Protocol

import numpy as np


class Faces(NamedTuple):
    """n faces of a picture, best first; all in pixels whose centres have whole coordinates."""

    boxes_n4: np.ndarray  # float64: left, top, right, bottom
    scores_n: np.ndarray  # float64, 0 to 1
    points_n52: np.ndarray  # float64: left eye, right eye, nose, left and right corner of the mouth, as seen

    def pick(self, rows: np.ndarray) -> "Faces":
        """Those at `rows`."""
        return Faces(*(column[rows] for column in self))

    def scaled(self, factor: float) -> "Faces":
        """The same faces in a picture whose sides are `factor` times as long."""
        shift = (factor - 1) / 2  # pixels grow about their corners
        return Faces(self.boxes_n4 * factor + shift, self.scores_n, self.points_n52 * factor + shift)

    def by_size(self) -> "Faces":
        """The same, largest box first."""
        sides = self.boxes_n4[:, 2:] - self.boxes_n4[:, :2]
        return self.pick(np.argsort(-sides.prod(axis=1), kind="stable"))


class Detector(Protocol):
    """Finds faces in pictures."""

    def detect(self, pictures: list[np.ndarray]) -> list[Faces]:
        """Faces of each picture (uint8[H, W, 3], RGB)."""
        ...


def no_faces() -> Faces:
    """Faces of a picture that shows none."""
    return Faces(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))


def suppress(boxes_n4: np.ndarray, scores_n: np.ndarray, overlap: float, *, of_smaller: bool = False) -> np.ndarray:
    """Rows of the boxes that stay, best first: none overlaps a better one that stays by more than `overlap`.

    Greedy non-maximum suppression by intersection over union, or over the smaller of the two boxes.
    """
    order = np.argsort(-scores_n, kind="stable")
    area_n = (boxes_n4[:, 2:] - boxes_n4[:, :2]).prod(axis=1)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        top = np.maximum(boxes_n4[best, :2], boxes_n4[rest, :2])
        common = np.maximum(np.minimum(boxes_n4[best, 2:], boxes_n4[rest, 2:]) - top, 0).prod(axis=1)
        whole = np.minimum(area_n[best], area_n[rest]) if of_smaller else area_n[best] + area_n[rest] - common
        order = rest[common <= overlap * whole]
    return np.array(kept, np.int64)
