"""Figures from ranks: rates, curves, columns of the table, and 95 % intervals over identities.

A rate is hits over trials, r = Σh/Σt, and identities are what another set would hold others of. With w = t/Σt, the
share of each identity, and y = h/t, its own rate:

    variance   v = Σ w²(y - r)²/(1 - w)          linearised; HC2 (MacKinnon and White 1985), without bias for equal w
    weight     n = 1/Σw²                         identities of equal share that would vary as much (Kish 1965)
    effective  n* = n·(r(1-r)n + c)/(vn² + c)    trials that were independent: r(1-r)/v, and n where nothing can tell
    interval   Wilson's (1927) of n* trials, with Student's t of n - 1 degrees of freedom for the normal quantile

c = 0.2 matters where nearly all identities have all hits: there v tells nothing, and each counts as one trial, so that
12 of 12 are [71, 100] and not [100, 100]. The difference of two rates takes the interval of Zou and Donner (2008) from
theirs and from the correlation of the two over identities, which makes it a paired one where identities are the same.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.05  # a report's statements are false alarms this often at most; intervals miss this often
PRIOR = 0.2  # c above
FEWEST = 5.0  # weight of the identities, below which nothing is said of others
HALVINGS = 50  # of the range of log p
SMALLEST = -50.0  # log p
Ends = tuple[float | None, float | None]  # of an interval; both None where there is none


def cmc(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative match curve as steps: 0-based ranks that occur, ascending, and the share of mates found by each.

    Rank 0 is always first. Between steps the curve is flat; from the last one on it is 1.
    """
    steps, number = np.unique(ranks, return_counts=True)
    recall = np.cumsum(number) / max(len(ranks), 1)
    if len(steps) == 0 or steps[0] > 0:
        steps, recall = np.insert(steps, 0, 0), np.insert(recall, 0, 0.0)
    return steps, recall


@dataclass(frozen=True)
class Column:
    """A column of the table: which probes it is about (bool, Q); None where that was not measured."""

    key: str
    title: str
    group: str
    probes: np.ndarray | None


@dataclass(frozen=True)
class Tallies:
    """Hits and trials of each identity (I), for one column: all that a rate and its intervals need."""

    hits: np.ndarray
    trials: np.ndarray

    @property
    def rate(self) -> float | None:
        """Hits over trials; None without trials."""
        total = int(self.trials.sum())
        return float(self.hits.sum() / total) if total else None


def tally(hit: np.ndarray, query: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Tallies:
    """Per-identity tallies of the trials whose query is among the chosen probes.

    hit: bool (T). query: int64 (T), rows of the probes. labels: int64 (Q). chosen: bool (Q).
    """
    _, identity = np.unique(labels, return_inverse=True)
    identities = int(identity.max()) + 1
    kept = chosen[query]
    of = identity[query[kept]]
    return Tallies(
        np.bincount(of, weights=hit[kept], minlength=identities), np.bincount(of, minlength=identities).astype(float)
    )


@dataclass(frozen=True)
class Estimate:
    """A rate and what is needed for its intervals, as the module's head has it; arrays may hold one for each set (…).

    rate: (…). variance: v (…). weight: n (…). influence: how far each identity moves the rate (… × I); all 0 where only
    the variance is known.
    """

    rate: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    influence: np.ndarray

    @classmethod
    def of(cls, hits: np.ndarray, trials: np.ndarray) -> "Estimate":
        """From the hits and trials of each identity (… × I); at least one of an estimate's identities has trials."""
        total = trials.sum(-1, keepdims=True)
        share = trials / total
        rate = hits.sum(-1, keepdims=True) / total
        influence = (hits - rate * trials) / total
        rest = np.where(share < 1, 1 - share, 1)  # an identity that is alone has no influence
        weight = total[..., 0] ** 2 / (trials**2).sum(-1)
        return cls(rate[..., 0], (influence**2 / rest).sum(-1), weight, influence)

    @property
    def enough(self) -> np.ndarray:
        """Whether there are identities enough to speak of others (…)."""
        return self.weight >= FEWEST

    @cached_property
    def effective(self) -> np.ndarray:
        """n* (…)."""
        rate, weight = self.rate, self.weight
        return weight * (rate * (1 - rate) * weight + PRIOR) / (self.variance * weight**2 + PRIOR)

    def ends(self, level: float | np.ndarray = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Both ends (…) of the interval that misses at this level."""
        quantile = -stdtrit(np.maximum(self.weight, FEWEST) - 1, level / 2)
        width = quantile**2 / self.effective
        middle = (self.rate + width / 2) / (1 + width)
        spread = self.rate * (1 - self.rate) / self.effective + width / self.effective / 4
        half = quantile * np.sqrt(spread) / (1 + width)
        # an end that meets the rate does so but for rounding
        return np.clip(middle - half, 0, self.rate), np.clip(middle + half, self.rate, 1)


@dataclass(frozen=True)
class Contrast:
    """The difference of two rates, one less other, over the same identities (some may have no trials in either)."""

    one: Estimate
    other: Estimate

    @property
    def enough(self) -> np.ndarray:
        """As in `Estimate`."""
        return self.one.enough & self.other.enough

    @property
    def difference(self) -> np.ndarray:
        """(…)"""
        return self.one.rate - self.other.rate

    @cached_property
    def correlation(self) -> np.ndarray:
        """Of the two rates over identities (…); 0 where nothing tells."""
        left, right = self.one.influence, self.other.influence
        scale = np.sqrt((left**2).sum(-1) * (right**2).sum(-1))
        return np.divide((left * right).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)

    def reach(self, level: float | np.ndarray = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """How far the interval that misses at this level goes below and above the difference (…)."""
        (low, high), (least, most) = self.one.ends(level), self.other.ends(level)
        one, other = self.one.rate, self.other.rate
        return self._joined(one - low, most - other), self._joined(high - one, other - least)

    def _joined(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(left**2 + right**2 - 2 * self.correlation * left * right, 0))

    def ends(self, level: float | np.ndarray = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Both ends (…) of the interval that misses at this level."""
        below, above = self.reach(level)
        return np.maximum(self.difference - below, -1), np.minimum(self.difference + above, 1)

    @cached_property
    def p(self) -> np.ndarray:
        """The lowest level whose interval leaves out 0 (…), found by halving its logarithm."""
        low, high = np.full(self.difference.shape, SMALLEST), np.zeros(self.difference.shape)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below, above = self.reach(np.exp(middle))
            out = (self.difference > below) | (-self.difference > above)
            low, high = np.where(out, low, middle), np.where(out, middle, high)
        return np.exp(high)


def holm(p: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Which of F statements hold together, and the level that each was held to, by Holm (1979): F sets (… × F) of p.

    However many there are, and however they hang together, a false one among them is as seldom as `level`.
    """
    number = p.shape[-1]
    if number == 0:
        return p > 0, p
    order = np.argsort(p, axis=-1, kind="stable")
    levels = level / np.arange(number, 0, -1)
    holds = np.logical_and.accumulate(np.take_along_axis(p, order, -1) <= levels, axis=-1)
    # whoever did not hold was held to the level of the first that did not
    first = np.minimum(holds.sum(-1, keepdims=True), number - 1)
    held_to = np.where(holds, levels, levels[first])
    back = np.argsort(order, axis=-1, kind="stable")
    return np.take_along_axis(holds, back, -1), np.take_along_axis(held_to, back, -1)


def interval(tallies: Tallies) -> Ends:
    """95 % interval of the rate; none where identities are too few."""
    return _ends(Estimate.of(tallies.hits, tallies.trials)) if tallies.trials.any() else (None, None)


def interval_of_draws(rate: float, draws: np.ndarray, shares: np.ndarray) -> Ends:
    """95 % interval of a rate that is known by its resamples over identities (draws, NaN where they have none).

    shares: how much of the rate is each identity's (I), such as its number of trials. None as in `interval`.
    """
    drawn = draws[np.isfinite(draws)]
    if len(drawn) < 2 or not shares.any():
        return None, None
    weight = shares.sum() ** 2 / (shares**2).sum()
    # resamples of n vary less by (n - 1)/n than sets of n do
    variance = drawn.var() * weight / max(weight - 1, 1e-9)
    influence = np.zeros(len(shares))
    return _ends(Estimate(np.asarray(rate), np.asarray(variance), np.asarray(weight), influence))


def contrast(one: Tallies, other: Tallies) -> Contrast | None:
    """rate(one) - rate(other); None where identities are too few in either."""
    if not (one.trials.any() and other.trials.any()):
        return None
    found = Contrast(Estimate.of(one.hits, one.trials), Estimate.of(other.hits, other.trials))
    return found if found.enough else None


def _ends(found: Estimate) -> Ends:
    low, high = found.ends()
    return (float(low), float(high)) if found.enough else (None, None)
