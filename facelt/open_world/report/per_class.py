"""Accuracy and F1 of every class, as a file: `per_class.csv`, which another report can be compared with.

C: classes with test images, N: known test images, M: open images.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelt.errors import UserError
from facelt.open_world.report.trial import Answers, Trial

FILE = "per_class.csv"
STRANGERS = "strangers"  # in place of a label
COUNTS = ("label", "training_images", "test_images")


@dataclass(frozen=True)
class ClassResults:
    """What a reading gave at the lowest threshold of a report. Of strangers it is None where there are none.

    correct_C: test images that are accepted and right. f1_C: 2·correct / (test images + images called so), of known
    images and strangers together. strangers_correct, strangers_f1: the same of strangers, who are right as unknown.
    """

    correct_C: NDArray[np.int64]
    f1_C: NDArray[np.float64]
    strangers_correct: int | None
    strangers_f1: float | None


@dataclass(frozen=True)
class PerClass:
    """Of each class with test images: its label, training and test images; and what each reading gave, by name."""

    labels_C: NDArray[np.int64]
    training_C: NDArray[np.int64]
    tests_C: NDArray[np.int64]
    strangers: int
    results: dict[str, ClassResults]

    @classmethod
    def of(cls, trial: Trial) -> "PerClass":
        """At the lowest threshold of a trial."""
        results = {name: _results(answers, trial) for name, answers in trial.answers.items()}
        return cls(trial.classes_C, trial.training_C, trial.tests_C, len(trial.identities_M), results)

    def write(self, folder: Path) -> None:
        """Write `per_class.csv`: a row for each class, and one for all strangers."""
        head = [*COUNTS, *(f"{name}_{part}" for name in self.results for part in ("correct", "f1"))]
        with (folder / FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            columns = [self.labels_C, self.training_C, self.tests_C]
            columns += [column for of in self.results.values() for column in (of.correct_C, of.f1_C)]
            writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
            if self.strangers:
                last = [(of.strangers_correct, of.strangers_f1) for of in self.results.values()]
                writer.writerow([STRANGERS, 0, self.strangers, *(cell for pair in last for cell in pair)])


def read(folder: Path | str) -> PerClass:
    """What `PerClass.write` wrote. Raises UserError for anything else."""
    path = Path(folder) / FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        last = rows.pop() if rows and rows[-1][0] == STRANGERS else None
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        names = [column.removesuffix("_f1") for column in head if column.endswith("_f1")]
        at = {} if last is None else dict(zip(head, last, strict=True))
        results = {
            name: ClassResults(
                np.array([int(cell) for cell in columns[f"{name}_correct"]]),
                np.array([float(cell) for cell in columns[f"{name}_f1"]]),
                None if last is None else int(at[f"{name}_correct"]),
                None if last is None else float(at[f"{name}_f1"]),
            )
            for name in names
        }
        labels_C, training_C, tests_C = (np.array([int(cell) for cell in columns[column]]) for column in COUNTS)
        return PerClass(labels_C, training_C, tests_C, int(at.get("test_images", 0)), results)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, KeyError, IndexError):
        raise UserError(f"--compare {folder}: no readable {FILE} in it; give a report of facelt.evaluate") from None


def _results(answers: Answers, trial: Trial) -> ClassResults:
    """Of one reading. An image is called its class where it is accepted, else unknown."""
    C, threshold = len(trial.classes_C), trial.thresholds[0]
    accepted_N, accepted_M = answers.probabilities_N >= threshold, answers.open_probabilities_M >= threshold
    right_N = accepted_N & (answers.classes_N == trial.labels_N)
    correct_C = np.bincount(trial.class_N[right_N], minlength=C)
    called = np.concatenate([answers.classes_N[accepted_N], answers.open_classes_M[accepted_M]])
    called_C = np.bincount(called, minlength=len(trial.counts_K))[trial.classes_C]
    f1_C = 2 * correct_C / (trial.tests_C + called_C)
    M = len(accepted_M)
    if not M:
        return ClassResults(correct_C, f1_C, None, None)
    correct = int((~accepted_M).sum())
    return ClassResults(correct_C, f1_C, correct, 2 * correct / (M + correct + int((~accepted_N).sum())))
