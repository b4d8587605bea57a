"""Noise lists: images that their makers or users found mislabelled, and what is done about them.

keep        nothing.
drop        noisy distractors leave the gallery, noisy probes the test.
insightface noisy distractors leave the gallery (its script pushes them far away under L2); a noisy probe is replaced by
            the normalised mean of the person's clean features, moved at random by up to 0.001 in each dimension, which
            raises scores.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import ArrayRows, FeatureSet, normalise

MODES = ("keep", "drop", "insightface")
IMAGE = {".jpg", ".jpeg", ".png", ".bmp"}
SHAKE = 0.001


def read_noise(path: str | Path) -> list[str]:
    """Image paths of a noise list: a path a line, or `number <tab> path`; # begins a comment."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable noise list ({error})") from error
    kept = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [line.split("\t")[1] if "\t" in line else line for line in kept]


def noisy_rows(features: FeatureSet, listed: list[str], depth: int) -> np.ndarray:
    """Which rows (bool, N) are listed; paths are compared by their last `depth` parts without an image's extension.

    FaceScrub's list names files (depth 1), MegaFace's `a1/a2/file` (depth 3). Raises InputError for a
    set without paths, and for a list that names none or all of its images.
    """
    if features.paths is None:
        raise InputError(f"{features.where}: a noise list needs paths.txt beside the features, a path for each row")

    def key(path: str) -> tuple[str, ...]:
        pure = PurePosixPath(path)
        named = pure.with_suffix("") if pure.suffix.lower() in IMAGE else pure
        return named.parts[-depth:]

    wanted = {key(path) for path in listed}
    noisy = np.array([key(path) in wanted for path in features.paths])
    if noisy.all() or not noisy.any():
        what = "all" if noisy.any() else "none"
        raise InputError(
            f"{features.where}: the noise list names {what} of its {len(noisy)} images (list: {listed[:1]}, paths.txt: "
            f"{features.paths[:1]}); expected the list of this set, with paths of the same form"
        )
    return noisy


def choose(features: FeatureSet, kept: np.ndarray) -> FeatureSet:
    """The chosen rows (bool, N) as a set of their own, in memory."""
    rows = np.flatnonzero(kept)
    paths = None if features.paths is None else [features.paths[i] for i in rows.tolist()]
    return replace(features, stored=ArrayRows(features.stored.take(rows)), labels=features.labels[rows], paths=paths)


def replace_noisy(features: FeatureSet, noisy: np.ndarray, seed: int = 0) -> FeatureSet:
    """The set with each noisy row replaced by the mean of its identity's clean unit rows, shaken and normalised.

    A person without a clean image keeps the noisy ones.
    """
    rows = features.unit(0, len(features))
    clean = rows.astype(np.float64)
    rng = np.random.default_rng([seed, 3])
    for at in np.flatnonzero(noisy).tolist():
        peers = (features.labels == features.labels[at]) & ~noisy
        if peers.any():
            mean = normalise(clean[peers].sum(axis=0, keepdims=True).astype(np.float32))[0]
            rows[at] = mean + rng.uniform(-SHAKE, SHAKE, rows.shape[1])
    return replace(features, stored=ArrayRows(normalise(rows)))
