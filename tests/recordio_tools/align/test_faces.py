"""Suppression against its definition, and faces in another scale."""

import numpy as np
import pytest

from recordio_tools.align.faces import Faces, suppress


def slow(boxes, scores, overlap, of_smaller):
    """One by one, best first: a box stays unless one that stays overlaps it too much."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            wide = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            high = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            common = max(wide, 0) * max(high, 0)
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (boxes[i], boxes[j])]
            if common > overlap * (min(areas) if of_smaller else sum(areas) - common):
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("of_smaller", [False, True])
def test_suppression(of_smaller):
    random = np.random.default_rng(1)
    for count in (0, 1, 2, 60):
        corner = random.uniform(0, 50, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(5, 30, (count, 2))], axis=1)
        scores = random.uniform(size=count)
        kept = suppress(boxes, scores, 0.4, of_smaller=of_smaller)
        assert kept.tolist() == slow(boxes.tolist(), scores.tolist(), 0.4, of_smaller)


def test_scaled_pixels_grow_about_their_corners():
    faces = Faces(np.array([[0.0, 0, 9, 9]]), np.ones(1), np.full((1, 5, 2), 3.0)).scaled(2)
    assert faces.points_n52[0, 0].tolist() == [6.5, 6.5]  # pixel 3 became pixels 6 and 7
    assert Faces(np.array([[0.0, 0, 1, 1], [0, 0, 3, 3]]), np.array([1, 0.9]), np.zeros((2, 5, 2))).by_size().scores_n[
        0
    ] == pytest.approx(0.9)
