"""Ten-fold verification on packs such as lfw.bin: pairs of images, and features of them in the pack's order.

Convention, ArcFace's of LFW's: the features of an image and of its mirror image are summed and normalised; the distance
is the squared L2 of the pair; in each of ten folds the threshold (0 to 4 by 0.01) that is best on the other nine is
used; the accuracy is the mean of the ten.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError, answer
from megaface_eval.features.feature_set import FeatureSet, load_features, normalise, to_float32
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.command_line import Parser
from recordio_tools.sources.bins import Pack, read_pack

FOLDS = 10
PNG = b"\x89PNG"
THRESHOLDS = np.arange(0, 4, 0.01)


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


def open_pack(path: Path) -> Pack:
    """A pack of at least one pair. Raises UserError for anything else."""
    expected = "expected a verification pack such as lfw.bin"
    if path.is_dir():
        raise InputError(f"{path}: is a directory; {expected}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; {expected}")
    try:
        pack = read_pack(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {expected}") from error
    if len(pack.same) == 0:
        raise InputError(f"{path}: holds no pairs; {expected}")
    return pack


def main(arguments: list[str] | None = None) -> int:
    """Score a pack, or take its images out; 0 done, 2 the user's mistake."""
    parser = Parser(
        prog="python -m megaface_eval.packs",
        description=str(__doc__).splitlines()[0],
        epilog="examples:\n  python -m megaface_eval.packs lfw.bin --images lfw_images\n"
        "  python -m megaface_eval.packs lfw.bin --features lfw_features --mirrored lfw_mirrored",
    )
    parser.add_argument("pack", type=Path, help="a verification pack such as lfw.bin, cfp_fp.bin, agedb_30.bin")
    parser.add_argument("--features", type=Path, help="feature set of the pack's images in order")
    parser.add_argument("--mirrored", type=Path, help="feature set of their mirror images, to be added")
    parser.add_argument("--images", type=Path, help="write the images into this new folder, numbered in order")
    parser.add_argument("--force", action="store_true", help="replace an existing folder of images")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)

    def work() -> None:
        pack = open_pack(options.pack)
        if options.images is not None:
            write_images(pack.images, options.images, force=options.force)
            print(f"{len(pack.images)} images in {options.images}")
        if options.features is not None:
            scores = scores_of(pack.same, options.features, options.mirrored)
            print_scores(scores, len(pack.same), options.json)

    return answer(work)


def write_images(images: list[bytes], folder: Path, *, force: bool = False) -> None:
    """Write encoded images into a new folder, numbered in order. force: replace an existing one."""
    check_writable(folder, force=force, folder=True)
    with output_folder(folder, force=force) as inner:
        for i, image in enumerate(images):
            (inner / f"{i:06d}.{'png' if image[:4] == PNG else 'jpg'}").write_bytes(image)


def scores_of(same: np.ndarray, features_path: Path, mirrored_path: Path | None) -> dict[str, TenFold]:
    """Scores of a pack's pairs (bool, P) without, and with features of the mirror images also with, the flip."""
    features = load_features(features_path)
    if len(features) != 2 * len(same):
        raise InputError(
            f"{features.where}: {len(features)} rows for {len(same)} pairs, expected two a pair in pack order"
        )
    mirrored = load_features(mirrored_path) if mirrored_path is not None else None
    scores = {"without flip": ten_fold(pack_distances(features), same)}
    if mirrored is not None:
        scores["with flip"] = ten_fold(pack_distances(features, mirrored), same)
    return scores


def print_scores(scores: dict[str, TenFold], pairs: int, as_json: bool) -> None:
    """The scores on stdout, a line each or as JSON."""
    if as_json:
        print(json.dumps({name: vars(score) for name, score in scores.items()}))
        return
    for name, score in scores.items():
        print(f"{pairs} pairs, {name}: {100 * score.accuracy:.2f} ± {100 * score.spread:.2f} %")


if __name__ == "__main__":
    sys.exit(main())
