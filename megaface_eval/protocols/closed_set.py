"""Closed-set identification without distractors: some images of every person are enrolled, all others are searched.

Each person's images come in a seeded order; the first n are enrolled (all, where there are no more), others are probes.
A person scores as the `best` of the enrolled images does, or as their normalised `mean`. The rank of a probe is
the number of other people who score above its own person.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import spans
from megaface_eval.protocols.verification import DIGITS

TEMPLATES = ("best", "mean")
RANKS = (1, 5, 10, 100)
STRIP = 1024  # probes at a time


@dataclass(frozen=True, kw_only=True)
class ClosedSetRule:
    """enrol: n. template: one of TEMPLATES. pessimistic: an equal score beats the own person's. seed: of the order."""

    enrol: int
    template: str = "best"
    pessimistic: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Ranked:
    """Q searches among `people`. rank: int64 (Q), from 0. label: int64 (Q), of the probes' own people."""

    rank: np.ndarray
    label: np.ndarray
    people: int


def enrolled(labels: np.ndarray, enrol: int, seed: int) -> np.ndarray:
    """Which rows are enrolled (bool, N)."""
    order = np.random.default_rng([seed, 3]).permutation(len(labels))
    by_person = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_person]
    first = np.searchsorted(sorted_labels, sorted_labels)  # where each row's person begins
    chosen = np.zeros(len(labels), bool)
    chosen[by_person] = np.arange(len(labels)) - first < enrol
    return chosen


def search_people(unit_ND: np.ndarray, labels: np.ndarray, rule: ClosedSetRule) -> Ranked:
    """Rank every probe's person among all. unit_ND: unit rows.

    Raises InputError where nobody has more than `enrol` images, or there is nobody else to be taken for.
    """
    chosen = enrolled(labels, rule.enrol, rule.seed)
    probes, gallery = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    gallery = gallery[np.argsort(labels[gallery], kind="stable")]
    people, first = np.unique(labels[gallery], return_index=True)
    if not len(probes):
        raise InputError(f"nobody has more than {rule.enrol} images; enrol fewer, so that some are left to search with")
    if len(people) < 2:
        raise InputError("all images are of one person; expected at least two people")
    rows_GD = unit_ND[gallery].astype(np.float64)
    if rule.template == "mean":
        rows_GD = np.add.reduceat(rows_GD, first)
        rows_GD /= np.linalg.norm(rows_GD, axis=1, keepdims=True)
    own, rank = np.searchsorted(people, labels[probes]), np.empty(len(probes), np.int64)
    for start, stop in spans(len(probes), STRIP):
        scores = np.round(unit_ND[probes[start:stop]].astype(np.float64) @ rows_GD.T, DIGITS)
        if rule.template == "best":
            scores = np.maximum.reduceat(scores, first, axis=1)
        mine = scores[np.arange(stop - start), own[start:stop], None]
        rank[start:stop] = (scores >= mine).sum(1) - 1 if rule.pessimistic else (scores > mine).sum(1)
    return Ranked(rank, labels[probes], len(people))
