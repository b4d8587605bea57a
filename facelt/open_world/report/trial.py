"""Everything that was said of every image: what the figures, the plots and the per-class results are made of.

N: known test images, M: open images, K: classes, C: those with test images, S: labels among the open images.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from facelt.open_world.figures import DRAWS, Separation
from facelt.open_world.shots import Bounds


@dataclass(frozen=True)
class Answers:
    """What a reading says: the best class of each image, and the probability of it, below 0 where it says unknown."""

    classes_N: NDArray[np.int64]
    probabilities_N: NDArray[np.float64]
    open_classes_M: NDArray[np.int64]
    open_probabilities_M: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The test and open images, and what was said of them.

    labels_N: of the known images. identities_M: of the open images, by whatever labels they have; strangers whatever
    the label. counts_K: training images of each class. answers: by reading. signals: by name, of the known images and
    of the open ones, high for known.
    """

    labels_N: NDArray[np.int64]
    identities_M: NDArray[np.int64]
    counts_K: NDArray[np.int64]
    answers: dict[str, Answers]
    signals: dict[str, tuple[NDArray, NDArray]]
    bounds: Bounds
    thresholds: list[float]
    draws: int = DRAWS
    seed: int = 0

    @cached_property
    def classes_C(self) -> NDArray[np.int64]:
        """The classes with test images, ascending."""
        return np.unique(self.labels_N)

    @cached_property
    def class_N(self) -> NDArray[np.int64]:
        """The place among `classes_C` of each known image's class."""
        return np.searchsorted(self.classes_C, self.labels_N)

    @cached_property
    def tests_C(self) -> NDArray[np.int64]:
        """Test images of each class."""
        return np.bincount(self.class_N, minlength=len(self.classes_C))

    @cached_property
    def training_C(self) -> NDArray[np.int64]:
        """Training images of each class."""
        return self.counts_K[self.classes_C]

    @cached_property
    def members(self) -> dict[str, NDArray[np.bool_]]:
        """Which of the C classes are many, medium and few."""
        return self.bounds.members(self.training_C)

    @cached_property
    def strangers_S(self) -> NDArray[np.int64]:
        """The labels of the open images, ascending."""
        return np.unique(self.identities_M)

    @cached_property
    def stranger_M(self) -> NDArray[np.int64]:
        """The place among `strangers_S` of each open image's label."""
        return np.searchsorted(self.strangers_S, self.identities_M)

    def separation(self, signal: str) -> Separation:
        """Known images and strangers by one of the signals."""
        known_N, open_M = self.signals[signal]
        return Separation.of(known_N, self.class_N, open_M, self.stranger_M)
