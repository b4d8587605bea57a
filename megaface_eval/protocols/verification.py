"""Verification, one against one: ROC, TAR at FAR, EER over pairs of probes.

A pair is accepted if its score reaches the threshold. TAR at a FAR takes the lowest threshold at which the share of
non-mated pairs accepted does not exceed that FAR, so equal scores are accepted or refused together.
"""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from megaface_eval.protocols.metrics import interval_of_draws

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
MOST_PROBES = 6000  # 18 million pairs; above it a seeded sample of identities is compared
DIGITS = 12  # scores are rounded here: far above float64's error, so that copies of one image score alike
RESAMPLES = 200
STRIP = 256  # probes at a time


@dataclass(frozen=True)
class Pairs:
    """All pairs of probes of I identities, numbered from 0.

    mated, nonmated: scores, float64 (M and N), the latter descending. mated_identity (M), nonmated_identities (N×2):
    the identities of each pair. images: number of images of each identity (I).
    """

    mated: np.ndarray
    mated_identity: np.ndarray
    nonmated: np.ndarray
    nonmated_identities: np.ndarray
    images: np.ndarray


def whole_identities(labels: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Rows (int64, ascending) of as many identities, in a seeded order, as have at most `most` images together.

    An identity that does not fit is passed over. All rows where they are few enough.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    identities, images = np.unique(labels, return_counts=True)
    taken, held = [], 0
    for at in np.random.default_rng(seed).permutation(len(identities)).tolist():
        if held + images[at] <= most:
            held += int(images[at])
            taken.append(identities[at])
    return np.flatnonzero(np.isin(labels, taken))


def probe_pairs(queries_QD: np.ndarray, members_QD: np.ndarray, labels: np.ndarray) -> Pairs:
    """All unordered pairs of probes, the earlier as query, the later as gallery member."""
    _, identity = np.unique(labels, return_inverse=True)
    identity = identity.astype(np.int32)
    earlier, later = queries_QD.astype(np.float64), members_QD.astype(np.float64)
    mated, nonmated, mated_of, between = [], [], [], []
    for at in range(0, len(labels), STRIP):
        scores = np.round(earlier[at : at + STRIP] @ later[at:].T, DIGITS)
        rows, columns = np.triu_indices(len(scores), 1, scores.shape[1])
        scores, one, other = scores[rows, columns], identity[at + rows], identity[at + columns]
        same = one == other
        mated.append(scores[same])
        nonmated.append(scores[~same])
        mated_of.append(one[same])
        between.append(np.stack([one[~same], other[~same]], axis=1))
    scores, between = np.concatenate(nonmated), np.concatenate(between)
    order = np.argsort(-scores, kind="stable")
    return Pairs(
        np.concatenate(mated), np.concatenate(mated_of), scores[order], between[order], np.bincount(identity)
    )  # fmt: skip


def tar_at(mated: np.ndarray, nonmated_falling: np.ndarray, far: float) -> float | None:
    """Share of mated scores accepted at the lowest threshold whose FAR is at most `far`; None if no pair could tell.

    nonmated_falling: non-mated scores in descending order. With fewer than 1/far of them a FAR this small cannot be
    measured.
    """
    allowed = int(np.floor(far * len(nonmated_falling) * (1 + 1e-12)))
    if len(mated) == 0 or allowed == 0:
        return None
    if allowed >= len(nonmated_falling):
        return 1.0
    # the first score that must be refused; everything strictly above it is accepted
    return float((mated > nonmated_falling[allowed]).mean())


def threshold_at(mated: np.ndarray, nonmated_falling: np.ndarray, far: float) -> float | None:
    """The threshold of `tar_at`: the lowest score accepted; None where there is no TAR or nothing is accepted."""
    allowed = int(np.floor(far * len(nonmated_falling) * (1 + 1e-12)))
    if len(mated) == 0 or allowed == 0:
        return None
    refused = nonmated_falling[allowed] if allowed < len(nonmated_falling) else -np.inf
    place = np.searchsorted(-nonmated_falling, -refused, side="left")  # of the first that is refused
    accepted = [*mated[mated > refused], *nonmated_falling[max(place - 1, 0) : place]]
    return float(min(accepted)) if accepted else None


def corners(mated: np.ndarray, nonmated_falling: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FAR, TAR and threshold, ascending from 0, 0 and infinity, of the ROC's corners as scikit-learn's roc_curve keeps
    them: all thresholds but those at which both rates grow by as much as at the next one.
    """
    thresholds = np.unique(np.concatenate([mated, nonmated_falling]))[::-1]
    accepted = [
        len(scores) - np.searchsorted(scores, thresholds, side="left")
        for scores in (nonmated_falling[::-1], np.sort(mated))
    ]
    turns = np.any([np.diff(number, 2) != 0 for number in accepted], axis=0)
    kept = np.concatenate([[True], turns, np.ones(min(len(thresholds) - 1, 1), bool)])
    far, tar = (np.append(0.0, number[kept] / number[-1]) for number in accepted)
    return far, tar, np.append(np.inf, thresholds[kept])


def tar_nearest(curve: tuple[np.ndarray, np.ndarray, np.ndarray], far: float) -> tuple[float, float, float]:
    """TAR, threshold and FAR at the corner whose FAR is nearest, of equals the last: insightface's rule for IJB."""
    away = np.abs(curve[0] - far)
    at = len(away) - 1 - int(np.argmin(away[::-1]))
    return float(curve[1][at]), float(curve[2][at]), float(curve[0][at])


def area(mated: np.ndarray, nonmated_falling: np.ndarray) -> float:
    """Area under the ROC: the share of mated and non-mated scores whose first is higher, ties counted by half."""
    rising = nonmated_falling[::-1]
    below = sum(np.searchsorted(rising, mated, side=side).sum() for side in ("left", "right")) / 2
    return float(below / len(mated) / len(rising))


def roc(
    mated: np.ndarray, nonmated_falling: np.ndarray, points: int = 400
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FAR and TAR, ascending, and the thresholds: non-mated scores evenly spread over log FAR."""
    n = len(nonmated_falling)
    if n == 0 or len(mated) == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    at = np.unique(np.geomspace(1, n, points).astype(int)) - 1
    thresholds = nonmated_falling[at]
    far = np.searchsorted(-nonmated_falling, -thresholds, side="right") / n
    rising = np.sort(mated)
    tar = 1 - np.searchsorted(rising, thresholds, side="left") / len(mated)
    return far, tar, thresholds


def equal_error_rate(mated: np.ndarray, nonmated_falling: np.ndarray) -> float | None:
    """The lowest rate that both errors stay within at one threshold: min over t of max(FAR(t), FRR(t))."""
    if len(mated) == 0 or len(nonmated_falling) == 0:
        return None
    thresholds = np.unique(np.concatenate([mated, nonmated_falling]))
    rejected = np.searchsorted(np.sort(mated), thresholds, side="left") / len(mated)
    accepted = np.searchsorted(-nonmated_falling, -thresholds, side="right") / len(nonmated_falling)
    # one more threshold, above every score
    return float(min(np.maximum(rejected, accepted).min(), 1.0))


def weighted_tar(pairs: Pairs, weights: np.ndarray, fars: tuple[float, ...] = FARS) -> list[float]:
    """TAR at each FAR when identity i is taken weights[i] times: a pair counts once for each way it is drawn."""
    mated_weight = weights[pairs.mated_identity]
    two = weights[pairs.nonmated_identities]
    accepted = np.cumsum(two[:, 0] * two[:, 1])
    total_mated = mated_weight.sum()
    images = weights * pairs.images
    total = (images.sum() ** 2 - (images**2).sum()) / 2
    found = []
    for far in fars:
        first_refused = int(np.searchsorted(accepted, far * total * (1 + 1e-12), side="right"))
        if total_mated == 0 or total == 0 or first_refused >= len(accepted):
            found.append(np.nan)
        else:
            found.append(float(mated_weight @ (pairs.mated > pairs.nonmated[first_refused]) / total_mated))
    return found


def verify(pairs: Pairs, resamples: int = RESAMPLES, seed: int = 0, progress: str | None = None) -> dict:
    """ROC, TAR at every FAR with 95 % intervals by resampled identities, EER, and the numbers of pairs."""
    far, tar, thresholds = roc(pairs.mated, pairs.nonmated)
    rates = [tar_at(pairs.mated, pairs.nonmated, far) for far in FARS]
    # FARs of at most 0.1 need no more than the highest scores; a resample may need more of them than the whole does
    tail = min(len(pairs.nonmated), int(0.15 * len(pairs.nonmated)) + 1000)
    top = Pairs(
        pairs.mated, pairs.mated_identity, pairs.nonmated[:tail], pairs.nonmated_identities[:tail], pairs.images
    )
    identities = len(pairs.images)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(identities, np.full(identities, 1 / identities), size=resamples).astype(float)
    bar = tqdm(draws, desc=f"{progress}: intervals", unit="resample", disable=progress is None, delay=2)
    drawn = np.array([weighted_tar(top, weights) for weights in bar])
    mated = np.bincount(pairs.mated_identity, minlength=identities)
    at = []
    for i, (level, rate) in enumerate(zip(FARS, rates, strict=True)):
        low, high = interval_of_draws(rate, drawn[:, i], mated) if rate is not None else (None, None)
        threshold = threshold_at(pairs.mated, pairs.nonmated, level)
        at.append({"far": level, "tar": rate, "low": low, "high": high, "threshold": threshold})
    return {
        "mated_pairs": len(pairs.mated),
        "nonmated_pairs": len(pairs.nonmated),
        "eer": equal_error_rate(pairs.mated, pairs.nonmated),
        "tar_at_far": at,
        "roc": {"far": far.tolist(), "tar": tar.tolist(), "threshold": thresholds.tolist()},
    }
