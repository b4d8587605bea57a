"""A small trial with random answers."""

import numpy as np

from facelt.open_world.report.schema import Source
from facelt.open_world.report.trial import Answers, Trial
from facelt.open_world.shots import Bounds

K, BOUNDS = 7, Bounds(many=10, few=3)
COUNTS = np.array([20, 10, 5, 3, 1, 2, 30])  # many: 0, 1, 6; medium: 2; few: 3, 4, 5
SOURCE = Source(checkpoint="run", stage="plain", step=3, train="t", data="d", open=None, temperature=16)


def make_trial(
    strangers: int = 12, without: tuple[int, ...] = (6,), counts: np.ndarray = COUNTS, seed: int = 4
) -> Trial:
    """A test set without images of some classes."""
    rng = np.random.default_rng(4)
    labels = np.concatenate([np.arange(K), rng.integers(0, K, 60)])
    labels = labels[~np.isin(labels, without)]
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(labels)) < 0.6, labels, rng.integers(0, K, len(labels)))
    certain, opened = rng.random(len(labels)), rng.random(strangers)
    open_said = rng.integers(0, K, strangers)
    answers = {
        "classifier": Answers(said, certain, open_said, opened),
        "memory": Answers(labels, certain**2, open_said, opened**2),
    }
    return Trial(
        labels_N=labels,
        identities_M=np.arange(strangers) % 5 * 3 + 1,  # some of them labels that the run knows
        counts_K=counts,
        answers=answers,
        signals={"max softmax": (certain, opened)},
        bounds=BOUNDS,
        thresholds=[0.0, 0.3, 1.0],
        draws=100,
    )
