"""The small tables: who is found, the F-measure and its threshold by hand, and statements that hold."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from facelt.config import FaceltConfig
from facelt.open_world.figures import Weights
from tests.bench.tables import measuring, page, running, sets
from tests.bench.tables.arms import ARMS, BASELINE, GROUPS, Arm
from tests.bench.tables.comparing import Sample, compare, outside_chance, sample
from tests.bench.tables.running import Budget, configuration, hits


def test_who_is_found_by_brute_force():
    rng = np.random.default_rng(0)
    probes, distractors = rng.normal(size=(12, 3)), rng.normal(size=(5, 3))
    labels = np.repeat(np.arange(4), 3)
    probes += 2 * rng.normal(size=(4, 3))[labels]
    probes, distractors = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (probes, distractors))
    got = hits(probes, labels, distractors)
    for i, probe in enumerate(probes):
        others = [(probe @ probes[j], labels[j]) for j in range(12) if j != i] + [(probe @ d, -1) for d in distractors]
        assert got[i] == (max(others)[1] == labels[i])
    assert 0 < got.sum() < 12


@pytest.fixture
def facts():
    """Three people, of whom the first image each is validation; four strangers, two of them validation."""
    labels, identities = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 2, 3])
    known = np.array([True, False, True, False, True, False, False])
    opened = np.array([True, True, False, False, False])
    parts = {"validation": sets.Part(known, opened), "test": sets.Part(~known, ~opened)}
    return measuring.Facts(labels, identities, np.array([0, 0, 1]), np.array([30, 10, 4]), parts)


def test_known_people_by_hand(facts, monkeypatch):
    monkeypatch.setattr(sets, "VALIDATION_STRANGERS", 2)
    found = {
        "r.class": np.array([0, 0, 1, 2, 0, 2, 2]),
        "r.signal": np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.75, 0.2]),
        "open.r.signal": np.array([0.6, 0.4, 0.65, 0.3, 0.1]),
    }
    # Validation: right at 0.9 and 0.7, wrong at 0.5; strangers at 0.6 and 0.4. Best above 0.6: 2·2 / (2·2 + 1).
    threshold = measuring.best_threshold(found, "r", facts)
    assert 0.6 < threshold <= 0.7
    figures = measuring.known_people(found, "r", facts)
    ones = Weights(np.ones(3), np.ones(2))
    assert facts.people == {"known": 2, "drawn": 2, "orl": 2}
    assert {name: figures[name](ones) for name in ("all", "many", "medium", "few")} == {
        "all": 3 / 4,
        "many": 1,
        "medium": 0,
        "few": 1,
    }
    # Test, at about 0.61: right and accepted 0.8 and 0.75; wrong or rejected two; strangers accepted 0.65.
    assert figures["F"](ones) == pytest.approx(4 / (4 + 2 + 1))
    pairs = [(k > s) + (k == s) / 2 for k in (0.8, 0.6, 0.75, 0.2) for s in (0.65, 0.3, 0.1)]
    assert figures["AUROC"](ones) == pytest.approx(np.mean(pairs))


def test_the_first_images_of_each_person_are_validation(monkeypatch):
    labels = {"known": np.array([2, 0, 2, 0, 1, 2]), "strangers": np.array([0, 99, 100])}
    monkeypatch.setattr(sets, "RecordDataset", lambda folder: type("Set", (), {"labels": labels[folder.name]}))
    monkeypatch.setattr(sets, "VALIDATION_IMAGES", 1)
    parts = sets.parts(Path("any"))
    assert parts["validation"].known_N.tolist() == [True, True, False, False, True, False]
    assert parts["test"].open_M.tolist() == [False, False, True]


def drawn_pair(rng: np.random.Generator, people: int, seeds: int, gap: float) -> tuple[Sample, Sample]:
    """Two arms with shares of 8 images a person, whose true means differ by the gap; seeds move both."""
    easy = rng.normal(0.5, 0.15, people)
    arms = []
    for shift in (gap, 0.0):
        figures = []
        for _ in range(seeds):
            chance = np.clip(easy + shift + rng.normal(0, 0.02), 0, 1)
            got = rng.binomial(8, chance)
            figures.append({"all": measuring.ImageAccuracy(got.astype(float), np.full(people, 8.0))})
        arms.append(sample(figures, people, 5, draws=60)["all"])
    return arms[0], arms[1]


def test_a_difference_by_hand():
    a = Sample(np.array([0.5, 0.6, 0.7]), np.array([[0.5, 0.6, 0.7], [0.6, 0.7, 0.8]]), 10)
    b = Sample(np.array([0.4, 0.4, 0.4]), np.array([[0.4, 0.4, 0.4], [0.4, 0.4, 0.4]]), 10)
    got = compare(a, b)
    of_people, of_seeds = np.var([0.2, 0.3], ddof=1), np.var([0.1, 0.2, 0.3], ddof=1) / 3
    freedom = (of_people + of_seeds) ** 2 / (of_people**2 / 9 + of_seeds**2 / 2)
    assert got.value == pytest.approx(0.2)
    assert got.high - got.value == pytest.approx(stats.t.ppf(0.975, freedom) * (of_people + of_seeds) ** 0.5)
    assert got.low + got.high == pytest.approx(0.4)
    assert got.p == pytest.approx(2 * stats.t.sf(0.2 / (of_people + of_seeds) ** 0.5, freedom))
    assert got.agreed
    assert compare(a, a).p == 1


def test_intervals_cover_and_statements_are_seldom_false():
    """Of 200 pairs without a difference: the interval covers 0, and at most one in twenty is called outside chance."""
    rng = np.random.default_rng(1)
    covered = said = 0
    for _ in range(200):
        difference = compare(*drawn_pair(rng, 60, 3, 0.0))
        covered += difference.low <= 0 <= difference.high
        said += bool(outside_chance({"one": difference}))
    assert covered >= 184
    assert said <= 14


def test_a_difference_that_is_there_is_seen():
    rng = np.random.default_rng(2)
    assert sum(bool(outside_chance({"one": compare(*drawn_pair(rng, 100, 3, 0.15))})) for _ in range(20)) >= 16


def test_the_page_says_what_beats_what():
    rng = np.random.default_rng(3)
    high, low = drawn_pair(rng, 200, 3, 0.3)
    samples = {BASELINE: {"all": low}, ("facelt", "memory"): {"all": high}, ("plain", "memory"): {"all": low}}
    text = page.table(samples, ("all",), BASELINE, ("arm", "read by"))
    assert text.splitlines()[3].startswith("| facelt | memory | ")
    assert "▲" in text.splitlines()[3]
    assert "▲" not in text.splitlines()[4]
    assert page.in_words(samples, ("all",), BASELINE) == [
        "- all: highest facelt by memory; of 2 others 1 above and 0 below plain by classifier outside chance."
    ]
    said = page.versus(samples, page.known_pairs(samples), ("all",))
    assert "| facelt less plain, both by memory | **+" in said


def test_every_arm_is_a_valid_configuration():
    assert len(ARMS) == sum(len(group) for group in GROUPS.values())
    for arm in ARMS.values():
        block = configuration(arm, Budget(4, 0), 0.3)["facelt"]
        assert FaceltConfig.model_validate(block).stage(arm.stage).epochs == (0 if arm.after else 4)


def test_a_kept_run_is_read_anew_where_a_reading_is_missing_and_not_trained_again(tmp_path, monkeypatch):
    arm, budget = Arm(reads=("classifier", "plda")), Budget(4, 0)
    out = running.path_of("an arm", budget, 0.3, tmp_path)
    out.mkdir(parents=True)
    running.keep({"classifier.class": np.array([1]), "rank1.direct.orl": np.array([True])}, out)
    monkeypatch.setattr(running, "train_stage", None)
    monkeypatch.setattr(running, "answers", lambda *_: {"classifier.class": np.array([2]), "plda.class": np.array([3])})
    read = running.result(arm, "an arm", budget, 0.3, tmp_path)
    assert {name: column.tolist() for name, column in read.items()} == {
        "classifier.class": [2],
        "plda.class": [3],
        "rank1.direct.orl": [True],
    }
    monkeypatch.setattr(running, "answers", None)
    assert running.result(arm, "an arm", budget, 0.3, tmp_path).keys() == read.keys()
