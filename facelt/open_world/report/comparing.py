"""Another report of the same test, read back: what `--compare` compares with.

C: classes with test images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from facelt.errors import UserError
from facelt.open_world.report import per_class
from facelt.open_world.report.per_class import PerClass
from facelt.open_world.report.schema import Report


@dataclass(frozen=True)
class OtherReport:
    """folder: as given. threshold: the lowest of that report, at which its F1 was taken. per_class: what it says."""

    folder: str
    threshold: float
    per_class: PerClass

    @classmethod
    def read(cls, folder: str) -> "OtherReport":
        """A report's folder. Raises UserError where it is none."""
        try:
            report = Report.model_validate_json((Path(folder) / "report.json").read_bytes())
        except (OSError, ValidationError):
            raise UserError(
                f"--compare {folder}: no readable report.json in it; give a report of facelt.evaluate"
            ) from None
        return cls(str(folder), min(at.threshold for at in report.readings[0].open), per_class.read(folder))

    def check(self, names: list[str], labels_N: NDArray[np.int64], counts_K: NDArray, opened: int) -> None:
        """Raise UserError where it is of another test, or has none of the readings.

        labels_N, opened: of the test images, and the number of open ones. counts_K: training images of each class.
        """
        classes_C, tests_C = np.unique(labels_N, return_counts=True)
        ours = {
            "classes": (classes_C, self.per_class.labels_C),
            "training images": (counts_K[classes_C], self.per_class.training_C),
            "test images": (tests_C, self.per_class.tests_C),
            "open images": (opened, self.per_class.strangers),
        }
        for what, (mine, theirs) in ours.items():
            if not np.array_equal(mine, theirs):
                raise UserError(
                    f"--compare {self.folder}: is of another test, its {what} differ; give a report of the same "
                    "training, test and open images"
                )
        if not set(names) & self.per_class.results.keys():
            raise UserError(
                f"--compare {self.folder}: reads by {', '.join(self.per_class.results)}, here it is "
                f"{', '.join(names)}; --read one that both have"
            )

    def gains(self, ours: PerClass) -> dict[str, NDArray[np.float64]]:
        """F1 of each class (C) less that of this report, by reading; of those that both have."""
        both = [name for name in ours.results if name in self.per_class.results]
        return {name: ours.results[name].f1_C - self.per_class.results[name].f1_C for name in both}
