"""Open-set identification: probes whose identity may not be enrolled, by the convention of IJB-C's 1:N protocol.

Identities are split into two galleries, G1 and G2, each searched by itself. An enrolled identity is one template (the
normalised mean of its first images in a seeded order); its other images are mated probes. All images of the other
gallery's identities are non-mated probes. The threshold comes from the non-mated probes' highest scores: FPIR is the
share of them that reach it. TPIR is the share of mated probes whose mate is at rank 1 and whose score reaches it.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.features.feature_set import normalise
from megaface_eval.protocols.metrics import interval_of_draws
from megaface_eval.protocols.probes import Probes

GALLERIES = ("enrolled", "gallery")
FPIRS = (1e-3, 1e-2, 1e-1)
RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class OpenSetRule:
    """gallery: `enrolled` probes alone, or the whole `gallery`, distractors too. enrol: images in a template.

    rejections: further scores by which a probe is accepted as known; `norm`, or .npy files beside the features.
    """

    gallery: str
    enrol: int
    rejections: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One gallery, as rows of the probes (int64).

    enrolled: the rows of each template. mated, nonmated: rows that search it. mate: number of each mated row's
    template.
    """

    enrolled: list[np.ndarray]
    mated: np.ndarray
    mate: np.ndarray
    nonmated: np.ndarray


@dataclass(frozen=True)
class Searches:
    """One gallery's searches, by M mated and N non-mated probes.

    correct: bool (M), the mate is at rank 1. Scores: float64, each probe's highest, or another by which it is accepted.
    Identities: those of the probes, for resampling.
    """

    correct: np.ndarray
    mated_score: np.ndarray
    nonmated_score: np.ndarray
    mated_identity: np.ndarray
    nonmated_identity: np.ndarray


def split_galleries(labels: np.ndarray, enrol: int = 1, seed: int = 0) -> list[Split]:
    """G1 and G2: a seeded half of the identities each, `enrol` images a template, the rest probes."""
    rng = np.random.default_rng([seed, 2])
    identities = rng.permutation(np.unique(labels))
    shuffled = rng.permutation(len(labels))
    rows_of = {identity: shuffled[labels[shuffled] == identity] for identity in identities.tolist()}
    splits = []
    for mine, theirs in ((identities[::2], identities[1::2]), (identities[1::2], identities[::2])):
        enrolled = [rows_of[i][:enrol] for i in mine.tolist()]
        probes = [rows_of[i][enrol:] for i in mine.tolist()]
        mate = np.repeat(np.arange(len(mine)), [len(rows) for rows in probes])
        empty = np.empty(0, np.int64)
        nonmated = np.concatenate([rows_of[i] for i in theirs.tolist()]) if len(theirs) else empty
        splits.append(Split(enrolled, np.concatenate(probes) if probes else empty, mate, nonmated))
    return splits


def search_split(
    split: Split,
    probes: Probes,
    *,
    distractor: np.ndarray | None = None,
    pessimistic: bool = False,
    acceptance: np.ndarray | None = None,
) -> Searches:
    """Search one gallery.

    Args:
        probes: all probes; templates are made of their unit rows.
        distractor: each probe's highest score among distractors (Q) where these are enrolled too.
        pessimistic: an impostor that scores exactly as the mate does beats it.
        acceptance: what is compared with the threshold instead of the highest score (Q, higher accepts).
    """
    labels = probes.labels_Q
    means = np.stack([probes.unit_QD[rows].astype(np.float64).mean(axis=0) for rows in split.enrolled])
    templates = probes.as_members(normalise(means.astype(np.float32), "templates")).astype(np.float64)

    def table(rows: np.ndarray) -> np.ndarray:
        return np.round(probes.queries_QD[rows].astype(np.float64) @ templates.T, 12)

    strangers = np.full(len(labels), -np.inf) if distractor is None else distractor
    scores = table(split.mated)
    at = np.arange(len(split.mated)), split.mate
    own = scores[at].copy()
    scores[at] = -np.inf
    rival = np.maximum(scores.max(axis=1, initial=-np.inf), strangers[split.mated])
    correct = own > rival if pessimistic else own >= rival
    mated_score = np.maximum(own, rival)
    nonmated_score = np.maximum(table(split.nonmated).max(axis=1, initial=-np.inf), strangers[split.nonmated])
    if acceptance is not None:
        mated_score, nonmated_score = acceptance[split.mated], acceptance[split.nonmated]
    return Searches(correct, mated_score, nonmated_score, labels[split.mated], labels[split.nonmated])


def tpir_at(searches: Searches, fpir: float, weights: tuple[np.ndarray, np.ndarray] | None = None) -> float | None:
    """TPIR at the lowest threshold whose FPIR is at most `fpir`; None where too few non-mated probes could tell.

    weights: how often each mated and each non-mated probe counts; all once by default.
    """
    mated, nonmated = weights or (np.ones(len(searches.mated_score)), np.ones(len(searches.nonmated_score)))
    allowed = fpir * nonmated.sum() * (1 + 1e-12)
    if mated.sum() == 0 or (weights is None and allowed < 1):
        return None
    order = np.argsort(-searches.nonmated_score, kind="stable")
    first_refused = int(np.searchsorted(np.cumsum(nonmated[order]), allowed, side="right"))
    refused = searches.nonmated_score[order[first_refused]] if first_refused < len(order) else -np.inf
    return float(mated @ (searches.correct & (searches.mated_score > refused)) / mated.sum())


def curve(searches: Searches, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """FPIR (log-spaced from one non-mated probe to all) and TPIR."""
    n = len(searches.nonmated_score)
    if n == 0 or len(searches.mated_score) == 0:
        return np.empty(0), np.empty(0)
    fpir = np.unique(np.geomspace(1, n, points).astype(int)) / n
    falling = np.sort(searches.nonmated_score)[::-1]
    refused = np.append(falling, -np.inf)[np.round(fpir * n).astype(int)]
    accepted = np.sort(searches.mated_score[searches.correct])
    tpir = (len(accepted) - np.searchsorted(accepted, refused, side="right")) / len(searches.mated_score)
    return fpir, tpir


def measure(galleries: list[Searches], resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """TPIR at every FPIR for G1, G2 and their mean, with 95 % intervals by resampled identities, and both curves."""
    names = np.unique(np.concatenate([np.concatenate([g.mated_identity, g.nonmated_identity]) for g in galleries]))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples).astype(float)
    places = [
        tuple(np.searchsorted(names, part) for part in (g.mated_identity, g.nonmated_identity)) for g in galleries
    ]
    counts = [np.bincount(mated, minlength=len(names)) for mated, _ in places]
    shares = np.sum([count / max(count.sum(), 1) for count in counts], axis=0)
    at = []
    for fpir in FPIRS:
        rates = [tpir_at(gallery, fpir) for gallery in galleries]
        measured = [rate for rate in rates if rate is not None]
        mean = float(np.mean(measured)) if len(measured) == len(rates) else None
        low = high = None
        if mean is not None:
            drawn = [
                [tpir_at(g, fpir, (w[one], w[other])) for g, (one, other) in zip(galleries, places, strict=True)]
                for w in draws
            ]
            low, high = interval_of_draws(mean, np.array(drawn, dtype=float).mean(axis=1), shares)
        at.append({"fpir": fpir, "g1": rates[0], "g2": rates[1], "mean": mean, "low": low, "high": high})
    curves = [dict(zip(("fpir", "tpir"), (part.tolist() for part in curve(g)), strict=True)) for g in galleries]
    return {
        "tpir_at_fpir": at,
        "curves": curves,
        "mated": [len(g.mated_score) for g in galleries],
        "nonmated": [len(g.nonmated_score) for g in galleries],
    }
