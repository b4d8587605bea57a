"""Pseudo-shots: how many training images look like a probe to a separate recogniser, and the buckets that makes.

Training and test identities are disjoint, so a probe has no training images of its own; what it has is a number of
similar ones. Counted exactly: cosine strictly above the threshold.
"""

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet
from megaface_eval.features.gallery import Gallery
from megaface_eval.processes import Ranks
from megaface_eval.search.candidates import Scan
from megaface_eval.search.exact import Thresholds, count_above
from megaface_eval.search.product import ProductScan

SIMILARITY = 0.7  # the paper's; it belongs to its recogniser
BOUNDS = (5, 2, 1)  # the paper's: at least 5 many, 2 to 4 few, 1 one, 0 zero
BUCKETS = ("many", "few", "one", "zero")
SAMPLE = (512, 8192)  # probes and training rows whose pairs a quantile is taken over


def count_similar(
    probes: FeatureSet,
    train: FeatureSet,
    threshold: float,
    *,
    scan: Scan = ProductScan,
    ranks: Ranks | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Number of training rows with cosine strictly above the threshold to each probe, int64 (Q)."""
    same_dimension(probes, train)
    queries = np.arange(len(probes))
    thresholds, place = Thresholds.of(queries, np.full(len(probes), threshold), len(probes))
    gallery = Gallery(train, [len(train)])
    rows = probes.unit(0, len(probes))
    found = count_above(rows, thresholds, gallery, scan=scan, ranks=ranks, progress=progress)
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


def same_dimension(one: FeatureSet, other: FeatureSet) -> None:
    """Raise InputError unless two sets can be compared."""
    if one.dimension != other.dimension:
        raise InputError(
            f"{one.where} has {one.dimension} dimensions and {other.where} {other.dimension}; "
            "expected features of one recogniser: extract both with the same one"
        )
