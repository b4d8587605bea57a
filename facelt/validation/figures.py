"""Figures of validation, pure functions of features: pairs of a pack, and people with several images.

P: pairs, N: images, D: embedding size. All are computed in float64; scores are rounded to DIGITS, so that copies of one
image score alike.
"""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from facelt.config import TARS

Floats = NDArray[np.float64]

FOLDS = 10
THRESHOLDS = np.arange(0, 4, 0.01)  # of the squared distance
DIGITS = 12
STRIP = 256  # images that are compared with all others at a time


def unit(rows_ND: NDArray) -> Floats:
    """The rows with length 1; one of length 0 stays."""
    rows = rows_ND.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def of_pairs(features_ND: NDArray, same_P: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy and TAR at FAR of a pack's pairs, rows 2i and 2i + 1 of its features, as far as it has pairs enough."""
    rows = unit(features_ND)
    distances_P = np.square(rows[0::2] - rows[1::2]).sum(1)
    scores_P = np.round(-distances_P, DIGITS)
    return {"accuracy": ten_fold(distances_P, same_P), **tars(scores_P[same_P], scores_P[~same_P])}


def ten_fold(distances_P: Floats, same_P: NDArray[np.bool_]) -> float:
    """Accuracy by squared L2 distances, as ArcFace has it from LFW's protocol.

    Folds are consecutive, as equal as they can be. A pair shows one person if its distance is below the threshold, of
    THRESHOLDS the lowest that is best on the nine other folds; the mean over the folds. P is FOLDS at least.
    """
    right_PT = (distances_P[:, None] < THRESHOLDS) == same_P[:, None]
    parts = np.array_split(np.arange(len(same_P)), FOLDS)
    hits_FT = np.stack([right_PT[part].sum(0) for part in parts])
    others_FT = hits_FT.sum(0) - hits_FT
    best_F = others_FT.argmax(1)
    return float(np.mean([hits[best] / len(part) for hits, best, part in zip(hits_FT, best_F, parts, strict=True)]))


def measurable(nonmated: int) -> list[str]:
    """Which of TARS so many non-mated pairs can tell: one false acceptance at least is allowed."""
    return [name for name, far in TARS.items() if _allowed(nonmated, far)]


def _allowed(nonmated: int, far: float) -> int:
    return int(np.floor(far * nonmated * (1 + 1e-12)))


def tars(mated: Floats, nonmated: Floats) -> dict[str, float]:
    """TAR at each of TARS that can be told: the share of mated scores above the first that must be refused.

    That is the lowest threshold at which the share of non-mated scores accepted is FAR at most; equal scores are
    accepted or refused together.
    """
    found: dict[str, float] = {}
    for name in measurable(len(nonmated)) if len(mated) else []:
        place = len(nonmated) - 1 - _allowed(len(nonmated), TARS[name])
        found[name] = float((mated > np.partition(nonmated, place)[place]).mean())
    return found


def of_strangers(features_ND: NDArray, labels_N: NDArray[np.int64], title: str) -> dict[str, float]:
    """Rank-1 by the nearest other image, and TAR at FAR of all pairs of images.

    Rank-1 is the share of the images, of people with two at least, whose best other image of the same person scores no
    less than every image of others. title: of the progress bar.
    """
    rows = unit(features_ND)
    mated, nonmated, hits, trials = [], [], 0, 0
    for at in tqdm(range(0, len(rows), STRIP), desc=title, unit="strip", delay=2, leave=None):
        scores_SN = np.round(rows[at : at + STRIP] @ rows.T, DIGITS)
        own, number = np.arange(at, at + len(scores_SN)), np.arange(len(rows))
        same_SN = labels_N[own, None] == labels_N
        other_SN = own[:, None] != number
        best_S = np.where(same_SN & other_SN, scores_SN, -np.inf).max(1)
        worst_S = np.where(same_SN, -np.inf, scores_SN).max(1)
        tried_S = np.isfinite(best_S)
        hits, trials = hits + int((best_S >= worst_S)[tried_S].sum()), trials + int(tried_S.sum())
        later_SN = own[:, None] < number
        mated.append(scores_SN[same_SN & later_SN])
        nonmated.append(scores_SN[~same_SN & later_SN])
    return {"rank_1": hits / trials, **tars(np.concatenate(mated), np.concatenate(nonmated))}


def of_classes(
    named_N: NDArray[np.int64], labels_N: NDArray[np.int64], members: dict[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """Top-1 over all images, and of each group of classes the mean over its classes, as released.

    named_N: the class that each image was taken for. members: the classes (bool, K) of each group; a group without
    images is left out.
    """
    right_N, found = named_N == labels_N, {"all": float((named_N == labels_N).mean())}
    classes, class_N = np.unique(labels_N, return_inverse=True)
    accuracy_C = np.bincount(class_N, weights=right_N) / np.bincount(class_N)
    for name, member_K in members.items():
        taken_C = member_K[classes]
        if taken_C.any():
            found[name] = float(accuracy_C[taken_C].mean())
    return found
