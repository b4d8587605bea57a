"""Feature sets, read: a folder with features.npy and labels.npy, as `facelt.extract` or another program writes it.

N: rows, D: size of a feature.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelt.errors import UserError

UNREADABLE = (OSError, ValueError, EOFError)  # what damaged .npy files make numpy raise


@dataclass(frozen=True)
class FeatureSet:
    """rows_ND: mapped from the disk. labels: int64, N. names: of the identities, by label, where they are known.
    list_labels: what a benchmark's list called each label, where the set is by one."""

    rows_ND: NDArray[np.floating]
    labels: NDArray[np.int64]
    names: list[str] | None
    list_labels: list[int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The largest label + 1."""
        return int(self.labels.max()) + 1


def read_features(folder: str) -> FeatureSet:
    """The feature set in a folder. Raises UserError for a missing or damaged file, and for parts that do not fit."""
    rows_ND, labels = (_mapped(folder, name) for name in ("features.npy", "labels.npy"))
    if rows_ND.ndim != 2 or rows_ND.dtype.kind != "f" or not rows_ND.size:
        raise UserError(f"{folder}: features.npy is {_said(rows_ND)}, expected N x D floats; give a feature set")
    if labels.shape != rows_ND.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(
            f"{folder}: labels.npy is {_said(labels)}, expected {len(rows_ND)} integers from 0; give a feature set"
        )
    names_file = Path(folder) / "names.txt"
    names = names_file.read_text(encoding="utf-8").splitlines() if names_file.is_file() else None
    if names is not None and len(names) <= labels.max():
        raise UserError(
            f"{folder}: names.txt has {len(names)} lines, labels go to {labels.max()}; mend it or remove it"
        )
    list_labels = None
    if (Path(folder) / "list_labels.npy").is_file():
        listed = _mapped(folder, "list_labels.npy")
        if listed.ndim != 1 or listed.dtype.kind not in "iu" or len(listed) <= labels.max():
            raise UserError(
                f"{folder}: list_labels.npy is {_said(listed)}, labels go to {labels.max()}; extract it again"
            )
        list_labels = [int(label) for label in listed]
    return FeatureSet(rows_ND, np.array(labels, np.int64), names, list_labels)


def _mapped(folder: str, name: str) -> np.ndarray:
    try:
        return np.load(Path(folder) / name, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{folder}: no {name} in it; give a feature set, as facelt.extract writes it") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: {name} is not readable ({reason}); extract it again") from None


def _said(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
