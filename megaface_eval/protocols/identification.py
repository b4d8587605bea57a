"""Closed-set identification: at which rank a probe's mate is found among the distractors (MegaFace, CVPR 2016).

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
from megaface_eval.protocols.probes import Probes
from megaface_eval.search.ranks import Search, Thresholds, count_above
from megaface_eval.search.scores import score_pairs

PROTOCOLS = ("devkit", "paper")
TIES = ("devkit", "pessimistic")
IMPOSTORS = ("distractors", "all")
MOST_PAIRS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Rules:
    """One of PROTOCOLS, of TIES and of IMPOSTORS, as the module's head explains them."""

    protocol: str = "devkit"
    ties: str = "devkit"
    impostors: str = "distractors"

    @property
    def pessimistic(self) -> bool:
        """Whether an equal score beats the mate."""
        return self.ties == "pessimistic"


@dataclass(frozen=True)
class Identified:
    """Trials of one method (T of them) on galleries of S sizes.

    query, mate: int64 (T), rows of the probes. score: float64 (T), of query and mate. ranks: int64 (S×T), 0 is a hit.
    best_score: float64 (Q), best_row: int64 (Q), each probe's highest distractor in the largest gallery, as a row of
    the distractors' feature set; -inf and -1 if there is none. tied: bool (T), an impostor scores exactly as the mate.
    """

    query: np.ndarray
    mate: np.ndarray
    score: np.ndarray
    ranks: np.ndarray
    best_score: np.ndarray
    best_row: np.ndarray
    tied: np.ndarray


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


def identify(probes: Probes, gallery: Gallery, rules: Rules, search: Search) -> Identified:
    """Rank the mates of every probe among the distractors.

    gallery: the distractors, extended as the probes' members are. Raises InputError if no identity has two images.
    """
    labels = probes.labels_Q
    query, mate = mated_pairs(labels)
    if len(query) == 0:
        raise InputError(f"{len(labels)} probes but no identity has two of them; a probe needs a mate to be found")
    score = _mate_scores(probes, query, mate)
    if rules.protocol == "paper":
        kept = best_mates(query, mate, score)
        query, mate, score = query[kept], mate[kept], score[kept]
    thresholds, place = Thresholds.of(query, score, len(labels), rules.pessimistic)
    found = count_above(probes.queries_QD, thresholds, gallery, search, scale=probes.scale)
    counts, tied = found.counts[:, place], found.tied[place]
    if rules.impostors == "all":
        others = Gallery(_AsStored(ArrayRows(probes.members_QD), labels, "probes"), [len(labels)])
        # the probes are few: every process counts them all by itself
        impostors = count_above(
            probes.queries_QD, thresholds, others, Search(), labels=(labels, labels), scale=probes.scale
        )
        counts, tied = counts + impostors.counts[:, place], tied | impostors.tied[place]
    row = np.where(found.best_place < 0, -1, gallery.places[found.best_place])
    return Identified(query, mate, score, counts, found.best_score, row, tied)


def _mate_scores(probes: Probes, query: np.ndarray, mate: np.ndarray) -> np.ndarray:
    """Scores of all ordered pairs as `mated_pairs` lists them; where both roles are one array, each pair once."""
    queries_QD, members_QD = probes.queries_QD, probes.members_QD
    if queries_QD is not members_QD:
        return score_pairs(queries_QD, query, members_QD, mate)
    # listed by mate, the pairs are the reverse of those listed by query
    reverse = np.lexsort((query, mate))
    first = query < mate
    score = np.empty(len(query))
    score[first] = score_pairs(queries_QD, query[first], members_QD, mate[first])
    score[~first] = score[reverse[~first]]
    return score


class _AsStored(FeatureSet):
    """A set whose rows are scored as they are stored."""

    def unit(self, start: int, stop: int) -> np.ndarray:
        return self.stored.read(start, stop)
