"""Sentences and shares of a report."""

import numpy as np
import pytest

from megaface_eval.protocols.metrics import Bootstrap, Tallies
from megaface_eval.report.records import density, differences, gaps, state
from megaface_eval.report.schema import HISTOGRAM, ColumnHead, Difference


def tallies(hits, trials):
    return Tallies(np.asarray(hits, float), np.asarray(trials, float))


def heads(**titles):
    """Column heads by key."""
    return [ColumnHead(key=key, title=title, group="") for key, title in titles.items()]


def test_a_density_is_the_share_of_scores_in_each_bin():
    share = density(np.array([0.005, 0.006, -2.0, 2.0]))
    assert sum(share) == pytest.approx(1)
    at = np.searchsorted(HISTOGRAM, 0.0051) - 1
    assert share[at] == 0.5
    assert (share[0], share[-1]) == (0.25, 0.25)
    assert sum(density(np.empty(0))) == 0


def test_differences_are_every_later_method_less_the_first():
    columns = heads(full="Full", many="Many")
    held = [
        {"full": tallies([1, 2, 3], [4, 4, 4]), "many": tallies([0, 0, 0], [0, 0, 0])},
        {"full": tallies([4, 4, 4], [4, 4, 4]), "many": tallies([0, 0, 0], [0, 0, 0])},
        {"full": tallies([1, 2, 3], [4, 4, 4])},
    ]
    found = differences(["a", "b", "c"], held, columns, Bootstrap(3))
    assert [(one.method, one.than, one.column, one.difference) for one in found] == [
        ("b", "a", "Full", 0.5), ("c", "a", "Full", 0.0),
    ]  # fmt: skip
    assert found[0].low > 0
    assert (found[1].low, found[1].high) == (0.0, 0.0)


def test_gaps_are_between_the_sub_groups_of_one_method():
    columns = heads(**{f"group:{name}": name for name in ("Male", "Female", "Empty")}, full="F")
    held = {"group:Male": tallies([4, 0], [4, 0]), "group:Female": tallies([0, 1], [0, 4]),
            "group:Empty": tallies([0, 0], [0, 0]), "full": tallies([4, 1], [4, 4])}  # fmt: skip
    (gap,) = gaps(["m"], [held], columns, Bootstrap(2))
    assert (gap.group, gap.than, gap.difference, gap.low) == ("Male", "Female", 0.75, None)


@pytest.mark.parametrize(
    "low, high, words",
    [
        (0.01, 0.2, "outside chance"),
        (-0.2, -0.1, "outside chance"),
        (-0.1, 0.2, "no difference shown"),
        (None, None, "too few"),
    ],
)
def test_a_difference_within_its_interval_is_called_none(low, high, words):
    said = state(Difference(method="b", than="a", column="Full", difference=0.05, low=low, high=high))
    assert said.startswith("Full: b against a +5.00")
    assert words in said
