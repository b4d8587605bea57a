"""Ten-fold verification on packs such as lfw.bin: pairs of images, and features of them in the pack's order.

Convention, ArcFace's of LFW's: the features of an image and of its mirror image are summed and normalised; the distance
is the squared L2 of the pair; in each of ten folds the threshold (0 to 4 by 0.01) that is best on the other nine is
used; the accuracy is the mean of the ten. VAL at a FAR is the mean over folds of the share of a fold's pairs of one
person accepted at the highest threshold (0 to 4 by 0.001) whose FAR on the other nine is not above it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet, load_features, normalise, to_float32
from megaface_eval.formats import bcolz
from megaface_eval.protocols.verification import area, equal_error_rate
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.sources.bins import read_pack

FOLDS = 10
PNG = b"\x89PNG"
THRESHOLDS = np.arange(0, 4, 0.01)
FINE_THRESHOLDS = np.arange(0, 4, 0.001)
FAR = 1e-3


@dataclass(frozen=True)
class OpenPack:
    """A pack's pairs. same: bool (P). images: reads its 2·P encoded images, in order."""

    name: str
    same: np.ndarray
    images: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class TenFold:
    """accuracy: mean over folds. spread: their standard deviation. thresholds: squared L2 chosen in each fold."""

    accuracy: float
    spread: float
    thresholds: list[float]


def ten_fold(distances: np.ndarray, same: np.ndarray, folds: int = FOLDS) -> TenFold:
    """Accuracy of pairs by their squared L2 distances (P), folds being consecutive as equal as they can be.

    A pair is called the same person if its distance is below the threshold; of equally good thresholds the lowest is
    used.
    """
    if len(same) < folds:
        raise InputError(f"{len(same)} pairs, expected at least one for each of {folds} folds")
    right = (distances[:, None] < THRESHOLDS) == same[:, None]
    fold = np.concatenate([np.full(len(part), i) for i, part in enumerate(np.array_split(same, folds))])
    accuracies, thresholds = [], []
    for i in range(folds):
        best = int(right[fold != i].mean(axis=0).argmax())
        thresholds.append(float(THRESHOLDS[best]))
        accuracies.append(float(right[fold == i, best].mean()))
    return TenFold(float(np.mean(accuracies)), float(np.std(accuracies)), thresholds)


@dataclass(frozen=True)
class Validation:
    """VAL at a FAR. val, spread: mean and standard deviation over folds. far: what was met, mean over folds."""

    val: float
    spread: float
    far: float


def validate(distances: np.ndarray, same: np.ndarray, far: float = FAR, folds: int = FOLDS) -> Validation | None:
    """VAL of pairs by their squared L2 distances (P); None where a fold lacks pairs of one person or of two."""
    fold = np.concatenate([np.full(len(part), i) for i, part in enumerate(np.array_split(same, folds))])
    met = []
    for i in range(folds):
        inside, train = fold == i, np.sort(distances[(fold != i) & ~same])
        mine, others = distances[inside & same], distances[inside & ~same]
        if not (len(mine) and len(others) and len(train)):
            return None
        accepted = np.searchsorted(train, FINE_THRESHOLDS, side="left") / len(train)
        threshold = FINE_THRESHOLDS[np.flatnonzero(accepted <= far)[-1]]
        met.append(((mine < threshold).mean(), (others < threshold).mean()))
    val, other = np.array(met).T
    return Validation(float(val.mean()), float(val.std()), float(other.mean()))


@dataclass(frozen=True)
class PackScores:
    """All figures of a pack's pairs; None where all pairs are of one kind. auc, eer: over all pairs, no folds."""

    ten_fold: TenFold
    validation: Validation | None
    auc: float | None
    eer: float | None


def score_pairs(distances: np.ndarray, same: np.ndarray, far: float = FAR) -> PackScores:
    """All figures of pairs by their squared L2 distances (P)."""
    folds = ten_fold(distances, same)
    if same.all() or not same.any():
        return PackScores(folds, None, None, None)
    mated, nonmated = -distances[same], np.sort(-distances[~same])[::-1]
    return PackScores(folds, validate(distances, same, far), area(mated, nonmated), equal_error_rate(mated, nonmated))


def pack_distances(features: FeatureSet, mirrored: FeatureSet | None = None) -> np.ndarray:
    """Squared L2 of consecutive rows (P, float64), with the mirror images' features added if given."""
    rows = features.stored.read(0, len(features)).astype(np.float64)
    if mirrored is not None:
        if mirrored.stored.shape != features.stored.shape:
            raise InputError(
                f"{mirrored.where}: shape {mirrored.stored.shape}, expected {features.stored.shape} as {features.where}"
            )
        rows = rows + mirrored.stored.read(0, len(mirrored)).astype(np.float64)
    unit = normalise(to_float32(rows), features.where).astype(np.float64)
    return ((unit[0::2] - unit[1::2]) ** 2).sum(axis=1)


def open_pack(path: Path) -> OpenPack:
    """A pack of at least one pair, lfw.bin or a folder of bcolz. Raises UserError for anything else."""
    expected = "expected a verification pack such as lfw.bin, or a bcolz folder with meta/ and data/"
    if path.is_dir():
        if not bcolz.is_bcolz(path):
            raise InputError(f"{path}: is a directory; {expected}")
        return OpenPack(path.name, bcolz.read_same(path), lambda: bcolz.read_images(path))
    if not path.is_file():
        raise InputError(f"{path}: no such file; {expected}")
    try:
        pack = read_pack(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {expected}") from error
    if len(pack.same) == 0:
        raise InputError(f"{path}: holds no pairs; {expected}")
    return OpenPack(path.stem, pack.same, lambda: iter(pack.images))


def write_images(images: Iterator[bytes], folder: Path, *, force: bool = False) -> int:
    """Write encoded images into a new folder, numbered in order; returns how many. force: replace an existing one."""
    check_writable(folder, force=force, folder=True)
    number = 0
    with output_folder(folder, force=force) as inner:
        for number, image in enumerate(images, 1):
            (inner / f"{number - 1:06d}.{'png' if image[:4] == PNG else 'jpg'}").write_bytes(image)
    return number


def scores_of(
    pack: OpenPack, features_path: Path, mirrored_path: Path | None, far: float = FAR
) -> dict[str, PackScores]:
    """Scores of a pack's pairs without, and with features of the mirror images also with, the flip."""
    features = load_features(features_path)
    if len(features) != 2 * len(pack.same):
        raise InputError(
            f"{features.where}: {len(features)} rows for {len(pack.same)} pairs of {pack.name}, expected two a pair in "
            "pack order"
        )
    scores = {"without flip": score_pairs(pack_distances(features), pack.same, far)}
    if mirrored_path is not None:
        distances = pack_distances(features, load_features(mirrored_path))
        scores["with flip"] = score_pairs(distances, pack.same, far)
    return scores
