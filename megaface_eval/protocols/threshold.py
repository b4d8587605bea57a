"""One threshold for everybody: set where a stated share of all non-mated pairs is accepted, then held.

A pair is accepted if it scores above the highest score that must be refused, as TAR at a FAR has it.
"""

import math
from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.protocols.identification import mated_pairs

FMR = 1e-3


@dataclass(frozen=True, kw_only=True)
class ErrorRule:
    """fmr: share of non-mated pairs accepted. quality: what images are rejected by, `norm` or .npy files beside the
    features. fairness: whether errors are told by sub-group.
    """

    fmr: float = FMR
    quality: tuple[str, ...] = ()
    fairness: bool = False


def allowed_pairs(nonmated: int, fmr: float) -> int:
    """How many non-mated pairs may be accepted."""
    return int(np.floor(fmr * nonmated * (1 + 1e-12)))


def refused_at(nonmated_falling: np.ndarray, fmr: float) -> float:
    """The highest score that is refused; scores in descending order, of which fmr allows one at least and not all."""
    return float(nonmated_falling[allowed_pairs(len(nonmated_falling), fmr)])


def check_measurable(labels: np.ndarray, fmr: float) -> None:
    """Raise InputError if the probes of these identities make too few non-mated pairs to set the threshold."""
    images = np.unique(labels, return_counts=True)[1]
    nonmated = int((images.sum() ** 2 - (images**2).sum()) // 2)
    if allowed_pairs(nonmated, fmr) < 1:
        raise InputError(
            f"--fmr {fmr:g}: {nonmated} pairs of two people's probes, expected at least {math.ceil(1 / fmr)}; give a "
            "higher --fmr or more probes"
        )


def mated_rows(labels: np.ndarray) -> np.ndarray:
    """Both rows of every unordered mated pair (M×2), in the order of `verification.probe_pairs`."""
    query, mate = mated_pairs(labels)
    return np.stack([query, mate], axis=1)[query < mate]
