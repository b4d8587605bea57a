"""Whom a projection shows, of what it is made, and silhouettes by hand."""

import numpy as np
import pytest
import torch
from by_hand import see_by_hand

from facelt.errors import UserError
from facelt.figures.opened import SomeImages
from facelt.figures.projection import Choice, People, compactness, features, project
from facelt.open_world.shots import Bounds

CPU = torch.device("cpu")
COUNTS = np.array([200, 150, 120, 50, 40, 30, 9, 8, 7, 6, 0])
LABELS = np.repeat(np.arange(11), [9, 9, 1, 9, 9, 9, 9, 9, 9, 9, 0])


def test_people_are_drawn_from_all_buckets_alike():
    people = Choice(classes=5, images=4, seed=2).of(LABELS, COUNTS, Bounds())
    assert sorted(people.shots.values()) == ["few", "few", "many", "medium", "medium"]
    assert {k: shot for k, shot in people.shots.items() if shot == "many"}.keys() <= {0, 1}  # class 2 has one image
    assert np.bincount(people.labels_N)[list(people.shots)].tolist() == [4] * 5
    assert (LABELS[people.images_N] == people.labels_N).all()
    again = Choice(classes=5, images=4, seed=2).of(LABELS, COUNTS, Bounds())
    assert again.images_N.tolist() == people.images_N.tolist()
    others = [Choice(5, 4, seed).of(LABELS, COUNTS, Bounds()).images_N.tolist() for seed in range(4)]
    assert len({tuple(other) for other in others}) > 1


@pytest.mark.parametrize(
    "classes, counts, want",
    [
        (7, [200, 50, *[3] * 9], [1, 1, 5]),
        (6, [9] * 11, [0, 0, 6]),
        (12, [*[200] * 5, *[50] * 4, 3, 3], [5, 4, 2]),  # no more than there are
    ],
)
def test_a_bucket_without_enough_people_is_made_up_for_by_the_others(classes, counts, want):
    people = Choice(classes, 3).of(np.repeat(np.arange(11), 3), np.array(counts), Bounds())
    shown = list(people.shots.values())
    assert [shown.count(shot) for shot in ("many", "medium", "few")] == want


@pytest.mark.parametrize("classes, images", [(1, 40), (12, 1)])
def test_too_few_to_show_is_refused(classes, images):
    labels, counts = LABELS[:18], COUNTS[:3]
    with pytest.raises(UserError, match=r"people with .* images to show"):
        Choice(classes, images).of(labels, counts, Bounds())


def test_features_are_those_of_the_equations(meta_run, dataset):
    some = SomeImages(dataset, np.array([20, 3, 4]))
    found = features(str(meta_run), ["plain", "meta", "direct"], some, 2, CPU)
    assert list(found) == ["plain", "meta", "direct"]
    want = see_by_hand(meta_run, dataset)
    assert found["meta"] == pytest.approx(want.meta[some.images].numpy(), rel=1e-2, abs=1e-3)
    assert found["direct"] == pytest.approx(want.direct[some.images].numpy(), rel=1e-2, abs=1e-3)
    plain = see_by_hand(meta_run / "plain", dataset).direct
    assert found["plain"] == pytest.approx(plain[some.images].numpy(), rel=1e-2, abs=1e-3)


def test_a_run_without_what_a_panel_shows(meta_run, dataset):
    some = SomeImages(dataset, np.arange(3))
    with pytest.raises(UserError, match="no stage plain beside it"):
        features(str(meta_run / "meta"), ["plain"], some, 2, CPU)
    with pytest.raises(UserError, match="of stage plain, which has only direct"):
        features(str(meta_run / "plain"), ["meta"], some, 2, CPU)


def silhouette(rows, labels, i) -> float:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    away = 1 - unit @ unit[i]
    means = {k: away[(labels == k) & (np.arange(len(labels)) != i)].mean() for k in set(labels)}
    a = means.pop(labels[i])
    b = min(means.values())
    return (b - a) / max(a, b)


def test_compactness_by_hand():
    rng = np.random.default_rng(0)
    labels = np.repeat([4, 7, 9], [3, 4, 5])
    rows = (rng.normal(size=(12, 6)) + 2 * np.eye(10)[labels][:, 4:]).astype(np.float32)
    found = compactness(rows, People(np.arange(12), labels, {4: "many", 7: "few", 9: "few"}))
    want = np.array([silhouette(rows, labels, i) for i in range(12)])
    assert found["all"] == pytest.approx(want.mean(), abs=1e-5)
    assert found["many"] == pytest.approx(want[:3].mean(), abs=1e-5)
    assert found["few"] == pytest.approx(want[3:].mean(), abs=1e-5)
    assert found["medium"] is None


def test_a_projection_keeps_people_together_and_depends_on_directions_alone():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    rows = (np.eye(2, 8)[labels] + rng.normal(size=(40, 8)) * 0.05).astype(np.float32)
    map_N2 = project(rows)
    near = np.linalg.norm(map_N2[:, None] - map_N2[None], axis=2) + 1e9 * np.eye(40)
    assert (labels[near.argmin(1)] == labels).all()
    assert np.allclose(project(rows * np.float32(8)), map_N2)
