"""Every figure again, in plain loops over images; what is n/a; intervals."""

import numpy as np
import pytest

from facelt.open_world.figures import (
    Auroc,
    ClassAccuracy,
    DetectionError,
    FMeasure,
    ImageAccuracy,
    Separation,
    Weights,
    bootstrap,
    per_group,
)


def ones(C: int, S: int) -> Weights:
    return Weights(np.ones(C), np.ones(S))


def case(seed: int, C: int = 6, S: int = 4):
    """Classes, strangers, whether an image is right, and a coarse signal with many equals."""
    rng = np.random.default_rng(seed)
    class_N = np.concatenate([np.arange(C), rng.integers(0, C, 40)])
    stranger_M = np.concatenate([np.arange(S), rng.integers(0, S, 20)])
    signal_N, signal_M = rng.integers(2, 12, len(class_N)) / 10, rng.integers(0, 9, len(stranger_M)) / 10
    return class_N, stranger_M, rng.random(len(class_N)) < 0.6, signal_N, signal_M


def weights_of(seed: int, C: int = 6, S: int = 4) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(rng.integers(0, 3, C).astype(float), rng.integers(0, 3, S).astype(float))


def repeated(weights_of_group, group, *columns):
    """Each image as often as its class or identity counts."""
    times = weights_of_group[group].astype(int)
    return [np.repeat(column, times) for column in columns]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("drawn", [False, True])
def test_accuracies(seed, drawn):
    class_N, _, right_N, *_ = case(seed)
    weights = weights_of(seed) if drawn else ones(6, 4)
    hits, trials = per_group(right_N, class_N, 6), per_group(np.ones(len(class_N)), class_N, 6)
    (flat,) = repeated(weights.classes_C, class_N, right_N)
    assert ImageAccuracy(hits, trials)(weights) == pytest.approx(sum(flat) / len(flat))
    members = np.array([True, True, False, True, False, True])
    per_class = []
    for k in range(6):
        of_class = [right for right, label in zip(right_N, class_N, strict=True) if label == k]
        if members[k]:
            per_class += [sum(of_class) / len(of_class)] * int(weights.classes_C[k])
    assert ClassAccuracy(hits, trials, members)(weights) == pytest.approx(sum(per_class) / len(per_class))


def test_a_class_without_test_images_is_no_part_of_a_mean_and_an_empty_bucket_is_none():
    hits, trials = np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 3.0])
    assert ClassAccuracy(hits, trials, np.ones(3, bool))(ones(3, 0)) == pytest.approx((1 / 2 + 1) / 2)
    for members in ([False, True, False], [False] * 3):
        empty = ClassAccuracy(hits, trials, np.array(members))
        assert empty(ones(3, 0)) is None
        assert not empty.enough


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("drawn", [False, True])
def test_both_f_measures(seed, drawn):
    class_N, stranger_M, right_N, signal_N, signal_M = case(seed)
    weights = weights_of(seed) if drawn else ones(6, 4)
    accepted_N, accepted_M = signal_N >= 0.5, signal_M >= 0.5
    right, accepted = repeated(weights.classes_C, class_N, right_N, accepted_N)
    (taken,) = repeated(weights.strangers_S, stranger_M, accepted_M)
    true_positive = false_positive = earlier_false_positive = false_negative = 0
    for is_right, is_accepted in zip(right, accepted, strict=True):
        true_positive += is_right and is_accepted
        false_positive += not (is_right and is_accepted)
        earlier_false_positive += not is_right and is_accepted
    for is_accepted in taken:
        false_negative += is_accepted
    both = per_group(right_N & accepted_N, class_N, 6)
    in_all = per_group(np.ones(len(class_N)), class_N, 6)
    strangers = per_group(accepted_M, stranger_M, 4)
    corrected = FMeasure(both, in_all - both, strangers)(weights)
    earlier = FMeasure(both, per_group(~right_N & accepted_N, class_N, 6), strangers)(weights)
    for got, false in ((corrected, false_positive), (earlier, earlier_false_positive)):
        precision = true_positive / (true_positive + false)
        recall = true_positive / (true_positive + false_negative)
        assert got == pytest.approx(2 * precision * recall / (precision + recall))


def test_f_measure_without_strangers_or_without_anything_accepted_is_none():
    assert FMeasure(np.ones(2), np.ones(2), np.empty(0))(ones(2, 0)) is None
    assert FMeasure(np.zeros(2), np.zeros(2), np.zeros(3))(ones(2, 3)) is None
    assert FMeasure(np.zeros(2), np.ones(2), np.zeros(3))(ones(2, 3)) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("drawn", [False, True])
def test_auroc_and_detection_error(seed, drawn):
    class_N, stranger_M, _, signal_N, signal_M = case(seed)
    weights = weights_of(seed) if drawn else ones(6, 4)
    separation = Separation.of(signal_N, class_N, signal_M, stranger_M)
    (known,) = repeated(weights.classes_C, class_N, signal_N)
    (strangers,) = repeated(weights.strangers_S, stranger_M, signal_M)
    won = 0.0
    for k in known:
        for s in strangers:
            won += 1 if k > s else 0.5 if k == s else 0
    assert Auroc(separation)(weights) == pytest.approx(won / (len(known) * len(strangers)))
    for threshold in sorted({*known, *strangers}, reverse=True):
        accepted = sum(k >= threshold for k in known)
        if 100 * accepted >= 95 * len(known):
            break
    mistaken = sum(s >= threshold for s in strangers) / len(strangers)
    assert DetectionError(separation)(weights) == pytest.approx((1 - accepted / len(known) + mistaken) / 2)


def test_signals_that_tell_all_nothing_or_the_reverse():
    known, strangers = np.array([3.0, 4.0]), np.array([1.0, 2.0, 2.5])
    classes, people = np.arange(2), np.arange(3)
    for one, other, auroc, error in [(known, strangers, 1, 0), (-known, -strangers, 0, 0.5)]:
        separation = Separation.of(one, classes, other, people)
        assert Auroc(separation)(ones(2, 3)) == auroc
        assert DetectionError(separation)(ones(2, 3)) == error
    alike = Separation.of(np.zeros(2), classes, np.zeros(3), people)
    assert Auroc(alike)(ones(2, 3)) == 0.5
    assert DetectionError(alike)(ones(2, 3)) == 0.5


def test_no_strangers_are_none():
    separation = Separation.of(np.array([0.5, 0.7]), np.arange(2), np.empty(0), np.empty(0, np.int64))
    assert Auroc(separation)(ones(2, 0)) is None
    assert DetectionError(separation)(ones(2, 0)) is None
    assert not separation.enough


def test_exactly_95_percent_of_the_known_images_is_enough():
    known = np.arange(20.0) + 1
    separation = Separation.of(known, np.arange(20), np.array([1.5, 2.0]), np.arange(2))
    assert DetectionError(separation)(ones(20, 2)) == pytest.approx((0.05 + 0.5) / 2)  # at 2.0: 19 of 20, 1 of 2


def test_intervals_are_those_of_the_draws_and_of_the_seed():
    class_N, stranger_M, right_N, signal_N, signal_M = case(0)
    hits, trials = per_group(right_N, class_N, 6), per_group(np.ones(len(class_N)), class_N, 6)
    separation = Separation.of(signal_N, class_N, signal_M, stranger_M)
    figures = {
        "all": ImageAccuracy(hits, trials),
        "one": ClassAccuracy(hits, trials, np.arange(6) == 2),
        "auroc": Auroc(separation),
    }
    got = bootstrap(figures, 6, 4, draws=200, seed=5)
    rng = np.random.default_rng(5)
    values = []
    for _ in range(200):
        drawn, _ = rng.integers(0, 6, 6), rng.integers(0, 4, 4)
        values.append(sum(hits[k] for k in drawn) / sum(trials[k] for k in drawn))
    assert got["all"] == pytest.approx(np.percentile(values, (2.5, 97.5)))
    assert got["one"] is None
    assert got["auroc"][0] <= Auroc(separation)(ones(6, 4)) <= got["auroc"][1]
    assert bootstrap(figures, 6, 4, draws=200, seed=5) == got
    assert bootstrap(figures, 6, 4, draws=200, seed=6) != got


def test_few_draws_make_no_interval():
    """Of five draws the percentiles are the extremes: an interval that often misses the figure itself."""
    figures = {"all": ImageAccuracy(np.array([3.0, 1, 2]), np.array([3.0, 4, 2]))}
    assert bootstrap(figures, 3, 0, draws=99) == {"all": None}
    low, high = bootstrap(figures, 3, 0, draws=100)["all"]
    assert low <= 6 / 9 <= high
