"""Closed-set identification: at which rank a probe's mate is found among the distractors.

Protocols:
    devkit  every ordered pair of one identity's probes: the first is the query, the second alone joins the distractors.
    paper   every probe with a mate: the query against the distractors and all its mates; the best mate counts.
Ties:
    devkit       a distractor beats the mate only by scoring strictly above it.
    pessimistic  a distractor that scores exactly as the mate does beats it too.
Impostors:
    distractors  the gallery holds the distractors and the mate.
    all          the images of all other probe identities join it, at every size.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import ArrayRows, FeatureSet
from megaface_eval.features.gallery import Gallery
from megaface_eval.processes import Ranks
from megaface_eval.search.candidates import Scan
from megaface_eval.search.exact import Thresholds, count_above
from megaface_eval.search.product import ProductScan
from megaface_eval.search.scores import score_pairs

PROTOCOLS = ("devkit", "paper")
TIES = ("devkit", "pessimistic")
MOST_PAIRS = 50_000_000
IMPOSTORS = ("distractors", "all")


@dataclass(frozen=True)
class Identified:
    """Trials of one method (T of them) on galleries of S sizes.

    query, mate: int64 (T), rows of the probes. score: float64 (T), of query and mate. ranks: int64 (S×T), 0 is a hit.
    best_score: float64 (Q), best_row: int64 (Q), each probe's highest distractor in the largest gallery, as a row of
    the distractors' feature set; -inf and -1 if there is none.
    """

    query: np.ndarray
    mate: np.ndarray
    score: np.ndarray
    ranks: np.ndarray
    best_score: np.ndarray
    best_row: np.ndarray


def mated_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs (query, mate) of different rows with one label, in order of the query's row.

    Raises InputError for more than MOST_PAIRS.
    """
    images = np.bincount(np.unique(labels, return_inverse=True)[1])
    pairs = int((images * (images - 1)).sum())
    if pairs > MOST_PAIRS:
        raise InputError(
            f"{len(labels)} probes make {pairs} ordered pairs (one identity has {images.max()} images), more than "
            f"{MOST_PAIRS}; check that labels.npy numbers the identities, or take fewer probes"
        )
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    query = np.concatenate([np.repeat(group, len(group) - 1) for group in groups])
    mate = np.concatenate([np.tile(group, (len(group), 1))[~np.eye(len(group), dtype=bool)] for group in groups])
    by_query = np.lexsort((mate, query))
    return query[by_query], mate[by_query]


def best_mates(query: np.ndarray, mate: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Indices of each query's highest-scoring pair, the first of equals."""
    order = np.lexsort((mate, -score, query))
    return order[np.diff(query[order], prepend=-1) > 0]


def identify(
    queries_QD: np.ndarray,
    members_QD: np.ndarray,
    labels: np.ndarray,
    gallery: Gallery,
    *,
    protocol: str = "devkit",
    ties: str = "devkit",
    impostors: str = "distractors",
    scan: Scan = ProductScan,
    scale: float = 1.0,
    ranks: Ranks | None = None,
    progress: str | None = None,
) -> Identified:
    """Rank the mates of every probe among the distractors.

    Args:
        queries_QD: the probes as queries, unit rows. members_QD: the same images as members of a gallery; another array
            only where a score cohort tells the two apart.
        labels: identity of each probe (Q).

    Raises InputError if no identity has two images.
    """
    query, mate = mated_pairs(labels)
    if len(query) == 0:
        raise InputError(f"{len(labels)} probes but no identity has two of them; a probe needs a mate to be found")
    score = _mate_scores(queries_QD, members_QD, query, mate)
    if protocol == "paper":
        kept = best_mates(query, mate, score)
        query, mate, score = query[kept], mate[kept], score[kept]
    thresholds, place = Thresholds.of(query, score, len(labels))
    options = {"inclusive": ties == "pessimistic", "scan": scan, "scale": scale, "ranks": ranks}
    found = count_above(queries_QD, thresholds, gallery, progress=progress, **options)
    counts = found.counts[:, place]
    if impostors == "all":
        others = Gallery(_as_stored(members_QD, labels), [len(labels)])
        # the probes are few: every rank counts them all, so nothing is summed over ranks
        options["ranks"] = None
        counts = (
            counts + count_above(queries_QD, thresholds, others, labels=(labels, labels), **options).counts[:, place]
        )
    row = np.where(found.best_place < 0, -1, gallery.places[found.best_place])
    return Identified(query, mate, score, counts, found.best_score, row)


def _mate_scores(queries_QD: np.ndarray, members_QD: np.ndarray, query: np.ndarray, mate: np.ndarray) -> np.ndarray:
    """Scores of all ordered pairs as `mated_pairs` lists them; where both roles are one array, each pair once."""
    if queries_QD is not members_QD:
        return score_pairs(queries_QD, query, members_QD, mate)
    # listed by mate, the pairs are the reverse of those listed by query
    reverse = np.lexsort((query, mate))
    first = query < mate
    score = np.empty(len(query))
    score[first] = score_pairs(queries_QD, query[first], members_QD, mate[first])
    score[~first] = score[reverse[~first]]
    return score


class _UnitRows(FeatureSet):
    """Rows that are to be scored as they are."""

    def unit(self, start: int, stop: int) -> np.ndarray:
        return self.rows.read(start, stop)


def _as_stored(rows_nD: np.ndarray, labels: np.ndarray) -> FeatureSet:
    return _UnitRows(ArrayRows(rows_nD), labels, "probes")
