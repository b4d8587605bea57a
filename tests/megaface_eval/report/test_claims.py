"""What is said of one rate beside another, and in which words."""

import numpy as np
import pytest

from megaface_eval.protocols.metrics import Tallies
from megaface_eval.report.claims import differences, error_gaps, gaps, held_together, state, too_small
from megaface_eval.report.schema import ColumnHead, Difference, Fairness, Gap, MethodReport


def tallies(hits, trials):
    return Tallies(np.asarray(hits, float), np.asarray(trials, float))


def heads(**titles):
    """Column heads by key."""
    return [ColumnHead(key=key, title=title, group="") for key, title in titles.items()]


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


def rate(value, weight):
    """An error of a group of so many identities of equal weight."""
    known = {"weight": weight, "effective": 10 * weight} if value is not None else {"weight": None, "effective": None}
    return {"rate": value, "low": None, "high": None, "pairs": 100, **known}


def test_errors_are_held_against_the_first_group_that_is_large_enough():
    groups = [
        {"attribute": attribute, "group": name, "identities": int(weight), "false_non_match": rate(missed, weight),
         "false_match": rate(matched, weight)}
        for attribute, name, weight, missed, matched in (
            ("age", "tiny", 4.0, 0.9, 0.1), ("age", "old", 30.0, 0.5, 0.001), ("age", "young", 40.0, 0.1, 0.002),
            ("hat", "none", 60.0, 0.2, 0.001), ("hat", "none at all", 9.0, None, 0.001),
        )
    ]  # fmt: skip
    fairness = Fairness.model_validate({"fmr": 0.001, "refused": 0.3, "groups": groups})
    method = MethodReport.model_construct(name="m", fairness=fairness)
    found = [claim for claim, _ in error_gaps([method, MethodReport.model_construct(name="none", fairness=None)])]
    assert [(gap.of, gap.group, gap.than) for gap in found] == [
        ("false non-match", "old", "young"), ("false match", "old", "young"), ("false match", "none", "none at all"),
    ]  # fmt: skip
    assert found[0].difference == pytest.approx(0.4)
    assert too_small(fairness) == ["tiny (4)", "none at all (9)"]
    judged = held_together(["m"], [{}], [], error_gaps([method])).gaps
    assert (judged[0].shown, judged[1].shown) == (True, False)


def test_false_matches_are_told_to_the_hundredth_of_a_hundredth():
    claim = Gap(
        of="false match", method="m", group="a", than="b", difference=0.00012, low=-0.0001, high=0.0003, shown=False,
        least=0.0004,
    )  # fmt: skip
    said = state(claim, among=3)
    assert said == (
        "m: false match, a against b +0.0120 (95 % interval -0.0100 … +0.0300): no difference shown; this set could "
        "show one above 0.0400."
    )
