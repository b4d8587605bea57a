"""Groups and gaps by hand, class by class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelt.figures.fairness import AsItIs, ByClass, EqualCounts, Fairness, draw, gap_in_words, measure, table
from facelt.open_world.figures import ClassAccuracy, Weights


def test_images_become_classes():
    labels, called = np.array([4, 1, 1, 4, 4]), np.array([4, 1, 0, 4, 2])
    by = ByClass.of(labels, called, np.array([9, 7, 0, 0, 30]), list("abcde"))
    assert by.hits_C.tolist() == [1, 2]
    assert by.trials_C.tolist() == [2, 3]
    assert by.counts_C.tolist() == [7, 30]
    assert by.names_C == ["b", "e"]


def gap_by_hand(accuracy, one, other, counts, weights) -> float | None:
    """Bins as ranges of counts; lists of classes, as often as they are drawn."""
    total = whole = 0.0
    for low in (1, 2, 4, 8, 16, 32, 64):
        sides = []
        for of in (one, other):
            inside = [k for k in range(len(counts)) if of[k] and low <= counts[k] < 2 * low for _ in range(weights[k])]
            sides.append([accuracy[k] for k in inside])
        if all(sides):
            smaller = min(len(side) for side in sides)
            total += smaller * (sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1]))
            whole += smaller
    return total / whole if whole else None


classes = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from("abn"), st.integers(1, 100), st.integers(0, 3)), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60)
@given(classes)
def test_the_gap_at_equal_counts_by_hand(drawn):
    accuracy, groups, counts, weights = (np.array(column) for column in zip(*drawn, strict=True))
    one, other = groups == "a", groups == "b"
    equal = EqualCounts(accuracy, one, other, np.frexp(counts)[1])
    want = gap_by_hand(accuracy, one, other, counts, weights)
    got = equal(Weights(weights.astype(float), np.ones(0)))
    assert got == (None if want is None else pytest.approx(want, abs=1e-9))


def test_a_gap_that_comes_from_counts_alone_vanishes_at_equal_counts():
    """Accuracy depends on training images only, and one group has fewer of them."""
    counts = np.array([4, 4, 4, 64, 4, 64, 64, 64])
    hits = np.where(counts == 64, 9.0, 3.0)
    by = ByClass(hits, np.full(8, 10.0), counts, list("abcdefgh"))
    values = {name: "left" if name in "abcd" else "right" for name in "abcdefgh"}
    (found,) = measure(by, {"side": values}, draws=100, seed=0)
    assert [(one.value, one.classes) for one in found.groups] == [("left", 4), ("right", 4)]
    assert [one.accuracy.value for one in found.groups] == pytest.approx([0.45, 0.75])
    assert [one.training_images for one in found.groups] == [4, 64]
    assert abs(found.gap.as_it_is.value) == pytest.approx(0.3)
    assert found.gap.at_equal_counts.value == pytest.approx(0)
    assert found.gap.compared == 8


def three_groups():
    by = ByClass(np.array([9.0, 9, 5, 5, 1, 1, 8]), np.full(7, 10.0), np.full(7, 6), list("abcdefg"))
    return by, dict(zip("abcdefg", ["x", "x", "y", "y", "z", "z", ""], strict=True))


def test_the_largest_gap_is_named_from_high_to_low():
    by, values = three_groups()
    (found,) = measure(by, {"kind": values}, draws=100, seed=0)
    assert (found.gap.higher, found.gap.lower, found.gap.pairs) == ("x", "z", 3)
    assert found.gap.at_equal_counts.value == found.gap.as_it_is.value == pytest.approx(0.8)
    assert found.gap.at_equal_counts.low == pytest.approx(0.8)  # the classes of a group are alike
    assert found.unknown == 1
    assert "kind: x above z by +80.0 [+80.0, +80.0] at equal training counts (4 classes" in gap_in_words(found)


def test_groups_without_counterparts_have_no_gap():
    by, values = three_groups()
    by = ByClass(by.hits_C, by.trials_C, np.array([1, 1, 9, 9, 90, 90, 3]), by.names_C)
    single = dict.fromkeys("abcdefg", "all")
    apart, one = measure(by, {"kind": values, "one": single}, draws=9, seed=0)
    assert apart.gap is None
    assert one.gap is None
    assert one.unknown == 0
    assert "no gap" in gap_in_words(apart)


def test_table_and_picture_name_every_group():
    by, values = three_groups()
    found = Fairness(
        checkpoint="c", train="t", data="d", attributes_file="a", classes=7, draws=100, seed=0,
        attributes=measure(by, {"kind": values}, 100, 0),
    )  # fmt: skip
    assert "| kind | y | 2 | 20 | 6 | 50.0 [50.0, 50.0] |" in table(found)
    shown = draw(found).axes[0]
    assert [text.get_text() for text in shown.get_yticklabels()] == ["kind: x (2)", "kind: y (2)", "kind: z (2)"]
    assert [line.get_xdata()[0] for line in shown.lines if len(line.get_xdata()) == 1] == pytest.approx([90, 50, 10])


def test_as_it_is_needs_both_groups():
    ones, none, some = np.ones(3), np.zeros(3, bool), np.array([True, True, False])
    assert AsItIs(ClassAccuracy(ones, ones, some), ClassAccuracy(ones, ones, none))(Weights(ones, ones)) is None
