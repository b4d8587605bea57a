"""The sets of the small tables: drawn people with a long tail, strangers, distractors, and the real people of ORL.

C: classes, N: known test images, M: open images. Known images and strangers come in two parts: validation, where rates
and thresholds are chosen, and test.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recordio_tools.__main__ import main as recordio
from recordio_tools.dataset import RecordDataset

TAIL = ["--tail", "zipf", "--min-images", "4", "--max-images", "80"]
DRAWN = ["--size", "64", "--zoom", "1.6"]
SETS = {
    "train": ["synth", "--identities", "300", "--images", "5000", *TAIL, *DRAWN],
    "known": ["synth", "--identities", "300", "--images", "4200", "--first-image", "1000", *DRAWN],
    "strangers": ["synth", "--identities", "250", "--images", "1500", "--first-identity", "100000", *DRAWN],
    "distractors": ["synth", "--identities", "1000", "--images", "1000", "--first-identity", "300000", *DRAWN],
    "orl": ["orl", "--size", "64"],
}
VALIDATION_IMAGES = 4  # of the 14 of each known person
VALIDATION_STRANGERS = 100  # of the 250
PARTS = ("validation", "test")


def make(folder: Path) -> None:
    """Make the sets that are not there yet."""
    for name, (command, *options) in SETS.items():
        if not (folder / name).exists() and recordio([command, str(folder / name), *options]):
            raise SystemExit(f"the set {name} could not be made")


class Part(NamedTuple):
    """Which known images (N) and which strangers' images (M) are of a part."""

    known_N: NDArray[np.bool_]
    open_M: NDArray[np.bool_]


def parts(folder: Path) -> dict[str, Part]:
    """Validation and test."""
    known, strangers = RecordDataset(folder / "known").labels, RecordDataset(folder / "strangers").labels
    first_N = np.searchsorted(np.sort(known), known)  # where each one's images begin, sorted by person
    place_N = np.argsort(np.argsort(known, kind="stable")) - first_N
    validation_N, validation_M = place_N < VALIDATION_IMAGES, strangers < VALIDATION_STRANGERS
    return {"validation": Part(validation_N, validation_M), "test": Part(~validation_N, ~validation_M)}
