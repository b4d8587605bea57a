"""Every bound, on both sides."""

import numpy as np
import pytest

from facelt.errors import UserError
from facelt.open_world.shots import Bounds

COUNTS = np.array([0, 19, 20, 21, 99, 100, 101])


@pytest.mark.parametrize(
    "bounds, many, few",
    [
        (Bounds(), [100, 101], [0, 19, 20]),
        (Bounds(inclusive=False), [101], [0, 19]),
        (Bounds(21, 19), [21, 99, 100, 101], [0, 19]),
    ],
)
def test_bounds(bounds, many, few):
    members = bounds.members(COUNTS)
    assert COUNTS[members["many"]].tolist() == many
    assert COUNTS[members["few"]].tolist() == few
    assert (members["many"].astype(int) + members["medium"] + members["few"] == 1).all()


def test_bounds_that_cross_are_refused():
    with pytest.raises(UserError, match="expected few below many"):
        Bounds(5, 5)


def test_titles_say_the_bound():
    assert Bounds().titles == {"many": "many ≥ 100", "medium": "medium", "few": "few ≤ 20"}
    assert Bounds(20, 6, False).titles == {"many": "many > 20", "medium": "medium", "few": "few < 6"}
