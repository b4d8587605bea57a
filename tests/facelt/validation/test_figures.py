"""Figures of validation against loops in float64 written from the protocols, and against the evaluator's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelt.open_world.shots import Bounds
from facelt.validation import figures
from megaface_eval.formats.packs import ten_fold
from megaface_eval.protocols.verification import probe_pairs, tar_at


def twin_ten_fold(distances: np.ndarray, same: np.ndarray) -> float:
    """Pair by pair, threshold by threshold."""
    fold = [i for i, part in enumerate(np.array_split(same, 10)) for _ in part]
    accuracies = []
    for left_out in range(10):
        right = [
            sum((d < t) == s for d, s, f in zip(distances, same, fold, strict=True) if f != left_out)
            for t in np.arange(0, 4, 0.01)
        ]
        threshold = np.arange(0, 4, 0.01)[int(np.argmax(right))]
        own = [(d < threshold) == s for d, s, f in zip(distances, same, fold, strict=True) if f == left_out]
        accuracies.append(sum(own) / len(own))
    return sum(accuracies) / 10


@given(pairs=st.integers(10, 60), seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_ten_fold_accuracy_is_the_protocol_and_the_evaluators(pairs, seed):
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    distances = np.clip(rng.normal(np.where(same, 1.2, 1.9), 0.5), 0, 4)
    got = figures.ten_fold(distances, same)
    assert got == pytest.approx(twin_ten_fold(distances, same), abs=1e-12)
    assert got == pytest.approx(ten_fold(distances, same).accuracy, abs=1e-12)


def test_the_distances_of_a_pack_are_those_of_unit_rows():
    rng = np.random.default_rng(3)
    rows, same = rng.normal(size=(4000, 6)).astype(np.float32), np.arange(2000) % 2 == 0
    rows[0::2][same] = rows[1::2][same] + 0.9 * rng.normal(size=(1000, 6)).astype(np.float32)
    found = figures.of_pairs(rows, same)
    assert set(found) == {"accuracy", "tar_1e-3"}, "1,000 pairs cannot tell a FAR of 1e-4"
    first, second = rows[0::2].astype(np.float64), rows[1::2].astype(np.float64)
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert found["accuracy"] == pytest.approx(ten_fold(2 - 2 * cosines, same).accuracy, abs=1e-12)
    assert found["tar_1e-3"] == tar_at(cosines[same], np.sort(cosines[~same])[::-1], 1e-3)
    assert 0.6 < found["accuracy"] < 0.99
    assert 0 < found["tar_1e-3"] < 1


def twin_rank_1(rows: np.ndarray, labels: np.ndarray) -> float:
    """Image by image."""
    unit, hits = rows / np.linalg.norm(rows, axis=1, keepdims=True), []
    for i in range(len(unit)):
        scores = [round(float(unit[i] @ unit[j]), 12) for j in range(len(unit))]
        mates = [s for j, s in enumerate(scores) if labels[j] == labels[i] and j != i]
        others = [s for j, s in enumerate(scores) if labels[j] != labels[i]]
        if mates:
            hits.append(max(mates) >= max(others))
    return sum(hits) / len(hits)


@given(people=st.integers(2, 9), images=st.integers(2, 40), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_rank_1_is_the_nearest_other_image(people, images, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 0, 1], rng.integers(0, people, images)])
    rows = rng.normal(size=(len(labels), 4)) + 2 * rng.normal(size=(people, 4))[labels]
    rows[-1] = rows[0]  # a copy, of the same person or of another
    assert figures.of_strangers(rows, labels, "t")["rank_1"] == pytest.approx(twin_rank_1(rows, labels))


def test_tar_at_far_of_all_pairs_of_images_is_the_evaluators():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 60, 300)
    rows = rng.normal(size=(300, 8)) + 1.2 * rng.normal(size=(60, 8))[labels]
    found = figures.of_strangers(rows, labels, "t")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = probe_pairs(unit, unit, labels)
    for name, far in (("tar_1e-3", 1e-3), ("tar_1e-4", 1e-4)):
        assert found[name] == tar_at(pairs.mated, pairs.nonmated, far)
    assert 0 < found["tar_1e-4"] < found["tar_1e-3"] < 1
    assert figures.measurable(len(pairs.nonmated)) == ["tar_1e-3", "tar_1e-4"]
    assert figures.measurable(9999) == ["tar_1e-3"]
    assert figures.measurable(999) == []


def test_accuracy_by_shots_is_a_mean_over_classes_and_an_empty_group_is_left_out():
    counts_K = np.array([200, 50, 50, 30])
    named, labels = np.array([0, 1, 1, 1, 2, 0]), np.array([0, 1, 1, 2, 2, 0])
    found = figures.of_classes(named, labels, Bounds().members(counts_K))
    assert found == {"all": pytest.approx(5 / 6), "many": 1.0, "medium": pytest.approx((1 + 1 / 2) / 2)}
