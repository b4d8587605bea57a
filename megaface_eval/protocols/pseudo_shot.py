"""Pseudo-shots: how many training images look like a probe to a separate recogniser, and the buckets that makes.

Training and test identities are disjoint, so a probe has no training images of its own; what it has is a number of
similar ones. Counted exactly: cosine strictly above the threshold.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet, same_dimension
from megaface_eval.features.gallery import Gallery
from megaface_eval.search.ranks import Search, Thresholds, count_above

SIMILARITY = 0.7  # the paper's; it belongs to its recogniser
BOUNDS = (5, 2, 1)  # the paper's: at least 5 many, 2 to 4 few, 1 one, 0 zero
BUCKETS = ("many", "few", "one", "zero")
SAMPLE = (512, 8192)  # probes and training rows whose pairs a quantile is taken over


@dataclass(frozen=True, kw_only=True)
class ShotRule:
    """bounds: lowest counts of many, few and one. similarity: the cosine above which a training image counts.

    quantile: takes that cosine from the data instead, see `quantile_threshold`.
    """

    bounds: tuple[int, int, int]
    similarity: float
    quantile: float | None


@dataclass(frozen=True)
class PseudoShots:
    """similar_Q: number of similar training images of each probe, int64. similarity: the cosine it was counted at."""

    similar_Q: np.ndarray
    similarity: float


def pseudo_shots(probes: FeatureSet, train: FeatureSet, rule: ShotRule, search: Search, seed: int = 0) -> PseudoShots:
    """Count each probe's similar training images. Both sets are one recogniser's. seed: of a quantile's sample."""
    similarity = rule.similarity
    if rule.quantile is not None:
        similarity = quantile_threshold(probes, train, rule.quantile, seed)
    return PseudoShots(count_similar(probes, train, similarity, search), similarity)


def count_similar(probes: FeatureSet, train: FeatureSet, threshold: float, search: Search) -> np.ndarray:
    """Number of training rows with cosine strictly above the threshold to each probe, int64 (Q)."""
    same_dimension(probes, train)
    queries = np.arange(len(probes))
    thresholds, place = Thresholds.of(queries, np.full(len(probes), threshold), len(probes))
    found = count_above(probes.unit(0, len(probes)), thresholds, Gallery(train, [len(train)]), search)
    return found.counts[0, place]


def quantile_threshold(probes: FeatureSet, train: FeatureSet, quantile: float, seed: int = 0) -> float:
    """The cosine that this share of probe-and-training pairs does not exceed, over a seeded sample of pairs.

    A threshold of 0.7 means one thing to one recogniser and nothing to another (features after a ReLU never fall below
    it); a quantile asks for the same rarity of any.
    """
    same_dimension(probes, train)
    rng = np.random.default_rng(seed)
    chosen = [
        np.sort(rng.choice(len(rows), min(size, len(rows)), replace=False))
        for rows, size in zip((probes, train), SAMPLE, strict=True)
    ]
    scores = probes.unit_take(chosen[0]).astype(np.float64) @ train.unit_take(chosen[1]).astype(np.float64).T
    return float(np.quantile(scores, quantile))


def bucket_masks(counts: np.ndarray, bounds: tuple[int, int, int] = BOUNDS) -> dict[str, np.ndarray]:
    """Which probes (bool, Q) fall in each bucket, given the lowest count of many, few and one."""
    many, few, one = bounds
    return {
        "many": counts >= many,
        "few": (counts >= few) & (counts < many),
        "one": (counts >= one) & (counts < few),
        "zero": counts < one,
    }


def bucket_titles(bounds: tuple[int, int, int] = BOUNDS) -> dict[str, str]:
    """Column titles that state the bounds, such as `Few 2–4`."""
    many, few, one = bounds

    def span(low: int, high: int) -> str:
        return str(low) if low == high else f"{low}–{high}"

    titles = (f"Many ≥{many}", f"Few {span(few, many - 1)}", f"One {span(one, few - 1)}", f"Zero {span(0, one - 1)}")
    return dict(zip(BUCKETS, titles, strict=True))


def parse_bounds(text: str) -> tuple[int, int, int]:
    """Bounds from `5,2,1`."""
    parts = text.split(",")
    if len(parts) == 3 and all(part.strip().isdigit() for part in parts):
        many, few, one = (int(part) for part in parts)
        if many > few > one > 0:
            return many, few, one
    raise InputError(f"shots {text!r}: expected three falling numbers, the fewest of many, few and one, such as 5,2,1")
