"""Sentences and shares of a report."""

import numpy as np
import pytest

from megaface_eval.protocols.metrics import Tallies
from megaface_eval.report.claims import differences, gaps, held_together, state
from megaface_eval.report.records import density
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
    nobody = tallies([0] * 18, [0] * 18)
    some, others = [1, 1, 2] * 6, [4, 4, 4] * 6
    held = [
        {"full": tallies(some, others), "many": nobody},
        {"full": tallies(others, others), "many": nobody},
        {"full": tallies(some, others)},
    ]
    found = [claim for claim, _ in differences(["a", "b", "c"], held, columns)]
    assert [(one.method, one.than, one.column, one.difference) for one in found] == [
        ("b", "a", "Full", pytest.approx(2 / 3)), ("c", "a", "Full", 0.0),
    ]  # fmt: skip
    sure, alike = held_together(["a", "b", "c"], held, columns).differences
    assert sure.low > 0
    assert (sure.shown, alike.shown) == (True, False)
    assert alike.low < 0 < alike.high == alike.least  # the last one that is left is held to 5 %


def test_gaps_are_between_the_sub_groups_of_one_attribute_of_one_method():
    columns = heads(**{f"group:{name}": name for name in ("Male", "Female", "Empty")}, full="F")
    columns += [ColumnHead(key=f"group:{name}", title=name, group="age") for name in ("Old", "Young")]
    held = {"group:Male": tallies([4, 0], [4, 0]), "group:Female": tallies([0, 1], [0, 4]),
            "group:Empty": tallies([0, 0], [0, 0]), "full": tallies([4, 1], [4, 4]),
            "group:Old": tallies([4, 0], [4, 0]), "group:Young": tallies([0, 1], [0, 4])}  # fmt: skip
    found = held_together(["m"], [held], columns)
    assert [(gap.group, gap.than, gap.difference, gap.low) for gap in found.gaps] == [
        ("Male", "Female", 0.75, None), ("Old", "Young", 0.75, None),
    ]  # fmt: skip
    assert len(gaps(["m"], [held], columns)) == 2
    assert all("too few identities" in line for line in found.statements)


@pytest.mark.parametrize(
    "low, high, shown, words",
    [
        (0.01, 0.2, True, "outside chance"),
        (-0.2, -0.1, True, "outside chance"),
        (-0.1, 0.2, False, "…: no difference shown; this set could show one above 12.00"),
        (0.01, 0.2, False, "no difference shown among 7 comparisons; this"),
        (None, None, None, "too few"),
    ],
)
def test_a_difference_is_called_what_it_is(low, high, shown, words):
    least = None if low is None else 0.12
    said = state(
        Difference(method="b", than="a", column="Full", difference=0.05, low=low, high=high, shown=shown, least=least),
        among=7,
    )
    assert said.startswith("Full: b against a +5.00")
    assert words.removeprefix("…") in said
