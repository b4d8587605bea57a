"""Every point of a curve against counting images one by one."""

import numpy as np
import pytest

from facelt.figures.answers import Answers, answers
from facelt.figures.influence import Influence, Point, Tried, by_open_classes, by_threshold, curves, draw
from facelt.open_world.shots import Bounds

LABELS = np.array([0, 0, 1, 1, 2, 2])
STRANGERS = np.array([7, 7, 3, 3, 5])


def tried() -> Tried:
    known = Answers(np.array([0, 1, 1, 1, 2, 0]), np.array([0.9, 0.9, 0.2, 0.6, 0.4, 0.8]))
    opened = Answers(np.zeros(5, int), np.array([0.1, 0.7, 0.5, 0.2, 0.3]))
    return Tried(known, LABELS, opened, STRANGERS, np.array([200, 50, 3]), Bounds())


def f_by_hand(threshold: float, strangers: set[int]) -> float:
    one = tried()
    right = sum(c == y and p >= threshold for c, p, y in zip(*one.known, LABELS, strict=True))
    taken = sum(p >= threshold and who in strangers for p, who in zip(one.opened[1], STRANGERS, strict=True))
    precision_of, recall_of = len(LABELS), right + taken
    precision, recall = right / precision_of, right / recall_of
    return 2 * precision * recall / (precision + recall)


def test_thresholds_by_hand():
    found = {curve.measure: curve for curve in by_threshold("ours", tried(), [0, 0.5], draws=100, seed=0)}
    assert [point.at for point in found["f_measure"].points] == ["0", "0.5"]
    want = [f_by_hand(threshold, {7, 3, 5}) for threshold in (0, 0.5)]
    assert [point.value for point in found["f_measure"].points] == pytest.approx(want)
    assert [point.value for point in found["all"].points] == pytest.approx([4 / 6, 2 / 6])
    assert [point.value for point in found["many"].points] == pytest.approx([0.5, 0.5])
    assert [point.value for point in found["medium"].points] == pytest.approx([1, 0.5])
    assert [point.value for point in found["few"].points] == pytest.approx([0.5, 0])
    assert found["many"].points[0].low is None  # one class
    assert found["all"].points[0].low <= 4 / 6 <= found["all"].points[0].high


def test_open_classes_by_hand_a_larger_number_keeps_those_of_a_smaller():
    (found,) = by_open_classes("ours", tried(), [1, 2, 3], 0.25, draws=100, seed=3)
    order = np.random.default_rng(3).permutation([3, 5, 7]).tolist()
    want = [f_by_hand(0.25, set(order[:number])) for number in (1, 2, 3)]
    assert [point.value for point in found.points] == pytest.approx(want)
    assert [point.at for point in found.points] == ["1", "2", "3"]


def test_without_strangers_there_is_no_f_measure():
    one = tried()
    nobody = Answers(np.empty(0, int), np.empty(0))
    closed = Tried(one.known, LABELS, nobody, np.empty(0, int), one.counts_K, one.bounds)
    found = curves("meta", [closed.points("a", 0.0, np.empty(0, int), 5, 0)])
    assert [curve.measure for curve in found] == ["all", "many", "medium", "few"]


def test_the_picture_shows_every_point():
    found = [*by_threshold("ours", tried(), [0, 0.5], 5, 0), *by_threshold("plain", tried(), [0, 0.5], 5, 0)]
    left, right = draw(Influence(varied="the threshold", curves=found)).axes
    assert [line.get_label() for line in left.lines] == ["ours", "plain"]
    assert len(right.lines) == 8
    assert left.lines[0].get_ydata() == pytest.approx([point.value for point in found[0].points])
    holes = [Point(at=at, value=value, low=None, high=None) for at, value in (("a", None), ("b", 0.5))]
    (_, top1, *_) = curves("m", [dict.fromkeys(("f_measure", "all", "many", "medium", "few"), hole) for hole in holes])
    (axes,) = draw(Influence(varied="x", curves=[top1])).axes
    assert axes.lines[0].get_xdata().tolist() == [1]


def test_answers_are_the_highest_probabilities(opened, meta_run, dataset):
    from by_hand import see_by_hand

    want = see_by_hand(meta_run, dataset).probabilities
    found = answers(opened, dataset, 7, "images")
    assert found.classes_N.tolist() == want.argmax(1).tolist()
    assert found.probabilities_N == pytest.approx(want.amax(1).numpy(), abs=1e-4)
