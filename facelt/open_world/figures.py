"""Figures of closed and open set, each a pure function of how often every class and every stranger counts.

C: classes with test images, S: identities of open images ("strangers"), N: known test images, M: open images.
A figure is called with `Weights`: ones give the figure itself, draws of classes and identities its bootstrap. It is
None where it is a share of nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Ends = tuple[float, float]

DRAWS = 1000
FEWEST_DRAWS = 100  # of fewer, the percentiles of the tails are the draws' extremes, and may miss the figure itself
DRAWS_HELP = f"of the bootstrap (default: {DRAWS}); fewer than {FEWEST_DRAWS} give no intervals"


class Weights(NamedTuple):
    """How often each class (C) and each stranger (S) counts."""

    classes_C: Floats
    strangers_S: Floats


class Figure(Protocol):
    """`enough`: whether it rests on two classes at least, and two strangers where it is about them."""

    @property
    def enough(self) -> bool: ...

    def __call__(self, weights: Weights) -> float | None: ...


def share(part: SupportsFloat, whole: SupportsFloat) -> float | None:
    """part / whole; None of nothing."""
    return float(part) / float(whole) if float(whole) > 0 else None


def per_group(values: NDArray, group: Ints, groups: int) -> Floats:
    """The sum of the values within each of the groups 0 … groups - 1."""
    return np.bincount(group, weights=values, minlength=groups).astype(float)


@dataclass(frozen=True)
class ImageAccuracy:
    """The share of images that are right, of all: top-1 over all classes. hits_C of trials_C images a class."""

    hits_C: Floats
    trials_C: Floats

    @property
    def enough(self) -> bool:
        return int((self.trials_C > 0).sum()) > 1

    def __call__(self, weights: Weights) -> float | None:
        return share(weights.classes_C @ self.hits_C, weights.classes_C @ self.trials_C)


@dataclass(frozen=True)
class ClassAccuracy:
    """The mean over classes of each class's share of right images, as released for many, medium and few.

    members_C: the classes that take part. A class without test images is no part of any mean.
    """

    hits_C: Floats
    trials_C: Floats
    members_C: Bools

    @property
    def _taken_C(self) -> Bools:
        return self.members_C & (self.trials_C > 0)

    @property
    def enough(self) -> bool:
        return int(self._taken_C.sum()) > 1

    def __call__(self, weights: Weights) -> float | None:
        taken_C = self._taken_C
        weight_T = weights.classes_C[taken_C]
        return share(weight_T @ (self.hits_C[taken_C] / self.trials_C[taken_C]), weight_T.sum())


@dataclass(frozen=True)
class FMeasure:
    """F of the open set: 2·p·r / (p + r) = 2·TP / (2·TP + FP + FN), None without strangers or where all three are 0.

    right_C: TP, known images that are accepted and right. wrong_C: FP, known images that are wrong: in the corrected
    form rejected ones too, in the earlier form accepted ones alone. accepted_S: FN, strangers that are accepted.
    """

    right_C: Floats
    wrong_C: Floats
    accepted_S: Floats

    @property
    def enough(self) -> bool:
        return min(len(self.right_C), len(self.accepted_S)) > 1

    def __call__(self, weights: Weights) -> float | None:
        if not weights.strangers_S.sum():
            return None
        right = 2 * (weights.classes_C @ self.right_C)
        return share(right, right + weights.classes_C @ self.wrong_C + weights.strangers_S @ self.accepted_S)


@dataclass(frozen=True)
class Separation:
    """How a signal that is high for known images tells them from strangers: every distinct value, ascending, once.

    known_N, strangers_M: the place of each image's value. classes_N, identities_M: whom it is of.
    """

    values: int
    known_N: Ints
    classes_N: Ints
    strangers_M: Ints
    identities_M: Ints
    enough: bool

    @classmethod
    def of(cls, known_N: NDArray, classes_N: Ints, strangers_M: NDArray, identities_M: Ints) -> "Separation":
        """Of a signal's values; classes numbered 0 … C - 1 and identities 0 … S - 1."""
        distinct, place = np.unique(np.concatenate([known_N, strangers_M]), return_inverse=True)
        N = len(known_N)
        enough = min(len(np.unique(classes_N)), len(np.unique(identities_M))) > 1
        return cls(len(distinct), place[:N], classes_N, place[N:], identities_M, enough)

    def counts(self, weights: Weights) -> tuple[Floats, Floats]:
        """How many known images and strangers have each value."""
        known = per_group(weights.classes_C[self.classes_N], self.known_N, self.values)
        return known, per_group(weights.strangers_S[self.identities_M], self.strangers_M, self.values)


@dataclass(frozen=True)
class Auroc:
    """The chance that a known image has a higher signal than a stranger; equals count one half."""

    separation: Separation

    @property
    def enough(self) -> bool:
        return self.separation.enough

    def __call__(self, weights: Weights) -> float | None:
        known, strangers = self.separation.counts(weights)
        below = np.cumsum(strangers) - strangers
        return share(known @ (below + strangers / 2), known.sum() * strangers.sum())


@dataclass(frozen=True)
class DetectionError:
    """(1 - TPR + FPR) / 2 at the highest threshold that accepts 95 % of the known images at least.

    TPR, FPR: the shares of known images and of strangers whose signal is the threshold or above. Table 2 of the paper.
    """

    separation: Separation

    @property
    def enough(self) -> bool:
        return self.separation.enough

    def __call__(self, weights: Weights) -> float | None:
        known, strangers = self.separation.counts(weights)
        accepted, mistaken = np.cumsum(known[::-1]), np.cumsum(strangers[::-1])
        if not len(accepted) or not accepted[-1] or not mistaken[-1]:
            return None
        at = int(np.argmax(20 * accepted >= 19 * accepted[-1]))
        return float((1 - accepted[at] / accepted[-1] + mistaken[at] / mistaken[-1]) / 2)


def bootstrap(
    figures: Mapping[str, Figure], classes: int, strangers: int, draws: int = DRAWS, seed: int = 0
) -> dict[str, Ends | None]:
    """95 % percentile intervals over draws of classes and of strangers with replacement, the same for all figures.

    Args:
        figures: by name.
        classes, strangers: C and S.
        draws: how many.
        seed: the same seed, the same intervals.

    Returns:
        The 2.5th and 97.5th percentile by name; None of fewer than FEWEST_DRAWS, and where the figure does not rest on
        two classes at least, and two strangers where it is about them.
    """
    if draws < FEWEST_DRAWS:
        return dict.fromkeys(figures)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name, figure in figures.items() if figure.enough}
    for _ in tqdm(range(draws), desc="intervals", unit="draw", mininterval=1, delay=1):
        weights = Weights(_draw(rng, classes), _draw(rng, strangers))
        for name, values in drawn.items():
            value = figures[name](weights)
            if value is not None:
                values.append(value)
    ends = {name: np.percentile(values, (2.5, 97.5)) if values else None for name, values in drawn.items()}
    return {name: None if (e := ends.get(name)) is None else (float(e[0]), float(e[1])) for name in figures}


def _draw(rng: np.random.Generator, size: int) -> Floats:
    return np.bincount(rng.integers(0, max(size, 1), size), minlength=size).astype(float)
