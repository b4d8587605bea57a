"""Errors by group at one threshold: false matches within a group, false non-matches of its members.

False non-match: mated pairs refused, with the interval of `metrics` over identities. False match: non-mated pairs of
the group accepted, each of them two identities'. With x and p the pairs of identities i and j that are accepted and
that there are, r = Σx/Σp, r_i the rate without identity i, I identities, and n of equal share:

    variance   v = (I - 1)/I·Σ(r_i - r)²      the jackknife, which is not too low on average (Efron and Stein 1981)
    clump      m = Σx²/Σx accepted pairs come together; Σp²/Σp, all of two people's, where none is accepted
    effective  n* = (r(1-r) + cm/Σp)/(v + c(m/Σp)²)                         c = PRIOR, as there
    interval   Wilson's of n* trials, with Student's t of n - 1 degrees of freedom

Groups of one attribute share no identity, so their errors do not hang together.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megaface_eval.protocols.metrics import PRIOR, Contrast, Estimate
from megaface_eval.protocols.verification import Pairs


@dataclass(frozen=True)
class Counted(Estimate):
    """An estimate whose n* is known. trials: (…)."""

    trials: np.ndarray

    @cached_property
    def effective(self) -> np.ndarray:
        return self.trials


def counted(rate: float, weight: float, trials: float) -> Counted:
    """An estimate from its rate, the identities of equal share behind it, and its n*."""
    variance = rate * (1 - rate) / trials
    return Counted(np.asarray(rate), np.asarray(variance), np.asarray(weight), np.zeros(1), np.asarray(trials))


def gap(one: Counted, other: Counted) -> Contrast:
    """The rate of one group less that of another, which shares no identity with it."""
    return Contrast(one, other)


def false_non_match(pairs: Pairs, refused: float, members_I: np.ndarray) -> Estimate | None:
    """Share of the members' mated pairs that score no more than `refused`; None without any."""
    number = len(pairs.images)
    wrong = np.bincount(pairs.mated_identity, weights=pairs.mated <= refused, minlength=number)
    trials = np.bincount(pairs.mated_identity, minlength=number).astype(float)
    if not trials[members_I].any():
        return None
    return Estimate.of(wrong[members_I], trials[members_I])


def false_match(pairs: Pairs, refused: float, members_I: np.ndarray) -> Estimate | None:
    """Share of the non-mated pairs of two members that score above `refused`; None without any."""
    accepted = int(np.searchsorted(-pairs.nonmated, -refused, side="left"))
    two = pairs.nonmated_identities[:accepted].astype(np.int64)
    two = np.sort(two[members_I[two].all(axis=1)], axis=1)
    dyads, accepted_E = np.unique(two, axis=0, return_counts=True)
    return estimate_dyads(pairs.images[members_I], np.searchsorted(np.flatnonzero(members_I), dyads), accepted_E)


def estimate_dyads(images_I: np.ndarray, dyads_E2: np.ndarray, accepted_E: np.ndarray) -> Counted | None:
    """The rate of accepted pairs of different identities.

    images_I: images of each identity. dyads_E2, accepted_E: pairs of identities with accepted pairs, and how many.
    """
    images, accepted = images_I.astype(float), accepted_E.astype(float)
    touching_I = images * (images.sum() - images)
    total = touching_I.sum() / 2
    if total == 0:
        return None
    rate = accepted.sum() / total
    found_I = np.bincount(dyads_E2.ravel(), weights=np.repeat(accepted, 2), minlength=len(images))
    left_I = total - touching_I
    without_I = np.divide(accepted.sum() - found_I, left_I, out=np.full(len(images), rate), where=left_I > 0)
    variance = (len(images) - 1) / len(images) * ((without_I - rate) ** 2).sum()
    weight = touching_I.sum() ** 2 / (touching_I**2).sum()
    squares = ((images**2).sum() ** 2 - (images**4).sum()) / 2  # Σp²
    clump = (accepted**2).sum() / accepted.sum() if len(accepted) else squares / total
    share = clump / total
    trials = (rate * (1 - rate) + PRIOR * share) / (variance + PRIOR * share**2)
    return Counted(np.asarray(rate), np.asarray(variance), np.asarray(weight), np.zeros(1), np.asarray(trials))


def measure(pairs: Pairs, refused: float, groups: list[tuple[str, str, np.ndarray]]) -> list[dict]:
    """Both errors of every group: (attribute, title, members bool (I)), as report.json holds them."""
    pairs_of = np.bincount(pairs.mated_identity, minlength=len(pairs.images))
    found = []
    for attribute, title, members_I in groups:
        images = pairs.images[members_I]
        within = int((images.sum() ** 2 - (images**2).sum()) // 2)
        mated = int(pairs_of[members_I].sum())
        found.append(
            {
                "attribute": attribute,
                "group": title,
                "identities": int(members_I.sum()),
                "false_non_match": _figures(false_non_match(pairs, refused, members_I), mated),
                "false_match": _figures(false_match(pairs, refused, members_I), within),
            }
        )
    return found


def _figures(found: Estimate | None, pairs: int) -> dict:
    if found is None:
        return dict.fromkeys(("rate", "low", "high", "weight", "effective")) | {"pairs": pairs}
    low, high = (float(end) for end in found.ends()) if found.enough else (None, None)
    return {
        "rate": float(found.rate), "low": low, "high": high, "pairs": pairs,
        "weight": float(found.weight), "effective": float(found.effective),
    }  # fmt: skip
