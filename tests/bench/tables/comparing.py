"""Whether two arms differ outside chance: over the people that they are tested on, and over the seeds of training.

Runs of one seed are paired: the same people, the same plain stage before. The difference d_s of a seed s has a mean
over the R seeds; its variance is that over draws of the people (all seeds together, for all see the same people) plus
that over seeds / R. The interval is Student's with Welch and Satterthwaite's degrees of freedom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from facelt.open_world.figures import Figure, Weights

DRAWS = 300
LEVEL = 0.05


@dataclass(frozen=True)
class Sample:
    """A figure of an arm: its value at each of R seeds, and at draws (B x R) of the people. people: how many."""

    values_R: NDArray[np.float64]
    drawn_BR: NDArray[np.float64]
    people: int

    @property
    def mean(self) -> float:
        return float(self.values_R.mean())

    @property
    def deviation(self) -> float:
        """Over seeds; NaN of one."""
        return float(self.values_R.std(ddof=1)) if len(self.values_R) > 1 else float("nan")


@dataclass(frozen=True)
class Difference:
    """Of two arms: the mean over seeds, its 95 % interval, the chance of as much without any, and of every seed."""

    value: float
    low: float
    high: float
    p: float
    values_R: NDArray[np.float64]

    @property
    def agreed(self) -> bool:
        """Whether every seed has the same sign."""
        return bool((self.values_R > 0).all() or (self.values_R < 0).all())


def sample(
    figures: Sequence[Mapping[str, Figure]], classes: int, strangers: int, draws: int = DRAWS
) -> dict[str, Sample]:
    """Every figure of an arm, by name. figures: of each seed. The same draws for every arm."""
    rng = np.random.default_rng(0)
    ones = Weights(np.ones(classes), np.ones(strangers))
    drawn = [Weights(draw(rng, classes), draw(rng, strangers)) for _ in range(draws)]

    def read(name: str, weights: Weights) -> list[float]:
        return [np.nan if (v := of[name](weights)) is None else v for of in figures]

    return {
        name: Sample(
            np.array(read(name, ones)), np.array([read(name, weights) for weights in drawn]), min(classes, strangers)
        )
        for name in figures[0]
    }


def draw(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return np.bincount(rng.integers(0, size, size), minlength=size).astype(float)


def compare(ours: Sample, theirs: Sample) -> Difference:
    """Ours less theirs."""
    values_R = ours.values_R - theirs.values_R
    R, value = len(values_R), float(values_R.mean())
    of_people = float(np.nanvar((ours.drawn_BR - theirs.drawn_BR).mean(1), ddof=1))
    of_seeds = float(values_R.var(ddof=1)) / R if R > 1 else 0.0
    variance = of_people + of_seeds
    if not variance:
        return Difference(value, value, value, float(value == 0), values_R)
    freedom = variance**2 / (of_people**2 / (ours.people - 1) + (of_seeds**2 / (R - 1) if R > 1 else 0))
    error = variance**0.5
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    return Difference(value, value - half, value + half, 2 * float(stats.t.sf(abs(value) / error, freedom)), values_R)


def outside_chance(differences: Mapping[str, Difference]) -> set[str]:
    """Those that are so with a chance of 5 % of any mistake among them all (Holm 1979), and alike at every seed."""
    ordered = sorted(differences, key=lambda name: differences[name].p)
    shown = set()
    for place, name in enumerate(ordered):
        if differences[name].p > LEVEL / (len(ordered) - place):
            break
        shown.add(name)
    return {name for name in shown if differences[name].agreed}
