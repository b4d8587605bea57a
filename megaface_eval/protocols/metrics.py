"""Figures from ranks: rates, curves, columns of the table, and 95 % bootstrap intervals over identities."""

from dataclasses import dataclass

import numpy as np

DRAWS = 1000
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


class Bootstrap:
    """Resamples of identities, the same for every figure, so that differences between methods are paired."""

    def __init__(self, identities: int, draws: int = DRAWS, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.weights = rng.multinomial(identities, np.full(identities, 1 / identities), size=draws).astype(np.float32)

    def rates(self, tallies: Tallies) -> np.ndarray:
        """Rate in every resample (draws), NaN where none of its identities has a trial."""
        hits, trials = self.weights @ tallies.hits, self.weights @ tallies.trials
        return np.divide(hits, trials, out=np.full(len(hits), np.nan), where=trials > 0)

    def interval(self, tallies: Tallies) -> Ends:
        """95 % percentile interval of the rate; none where fewer than two identities have trials."""
        return percentiles(self.rates(tallies)) if (tallies.trials > 0).sum() > 1 else (None, None)

    def difference(self, one: Tallies, other: Tallies) -> Ends:
        """95 % percentile interval of rate(one) - rate(other) over the same resamples; none as in `interval`."""
        if min((one.trials > 0).sum(), (other.trials > 0).sum()) < 2:
            return None, None
        return percentiles(self.rates(one) - self.rates(other))


def percentiles(values: np.ndarray) -> Ends:
    """2.5th and 97.5th percentile of the finite values; none without any."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
