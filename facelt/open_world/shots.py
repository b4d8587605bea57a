"""Many, medium and few: which classes have how many training images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facelt.errors import UserError

SHOTS = ("many", "medium", "few")


@dataclass(frozen=True)
class Bounds:
    """Where many begins and few ends, in training images of a class.

    inclusive: many has `many` and more, few has `few` and fewer, as released; otherwise more than `many` and fewer than
    `few`, as printed. What is neither is medium. Raises UserError where a class could be both.
    """

    many: int = 100
    few: int = 20
    inclusive: bool = True

    def __post_init__(self) -> None:
        if self.few >= self.many:
            raise UserError(f"--few {self.few} --many {self.many}: expected few below many; change one of them")

    def members(self, counts_K: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        """Which classes (bool, K) are many, medium and few, by their training images."""
        if self.inclusive:
            many, few = counts_K >= self.many, counts_K <= self.few
        else:
            many, few = counts_K > self.many, counts_K < self.few
        return dict(zip(SHOTS, (many, ~many & ~few, few), strict=True))

    @property
    def titles(self) -> dict[str, str]:
        """The column of each, with its bound."""
        if self.inclusive:
            return {"many": f"many ≥ {self.many}", "medium": "medium", "few": f"few ≤ {self.few}"}
        return {"many": f"many > {self.many}", "medium": "medium", "few": f"few < {self.few}"}


def doubling_bins(counts_C: NDArray[np.int64]) -> dict[int, NDArray[np.bool_]]:
    """Classes (bool, C) with 1, 2–3, 4–7, 8–15 … training images, by the smallest count that occurs; none is empty."""
    bin_C = np.frexp(counts_C)[1]
    bins = [bin_C == number for number in np.unique(bin_C)]
    return {int(counts_C[members_C].min()): members_C for members_C in bins}
