"""Score normalisation by a cohort: a cosine counts for less where its two sides lie close to many other people.

For a row x, m(x) is the mean cosine to its k nearest members of the cohort (any feature set; a trained memory's
centroids, for one). The gallery form scores s(q, x) - w·m(x); the symmetric form s(q, x) - w·m(x) - w·m(q), which ranks
alike and makes thresholds comparable between queries. Both are inner products of rows with further columns, so every
search stays what it is: exact, by blocks, on any number of processes.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet
from megaface_eval.search.faiss_scan import nearest
from megaface_eval.search.scores import score_pairs

FORMS = ("gallery", "symmetric")
MARGIN = 8  # further members looked at beyond k, so that rounding near the k-th place cannot lose one


@dataclass(frozen=True, kw_only=True)
class CohortRule:
    """How many nearest members count, what share of their mean cosine is taken off, and in which of FORMS."""

    k: int
    weight: float
    form: str


@dataclass(frozen=True)
class Cohort:
    """Normalises scores: the cohort's members_KD (unit rows, float32), and a rule as `CohortRule` says (weight: w).

    Raises InputError for a k or a weight out of range.
    """

    members_KD: np.ndarray
    k: int = 20
    weight: float = 0.5
    form: str = "gallery"

    def __post_init__(self):
        if not 1 <= self.k <= len(self.members_KD):
            raise InputError(f"cohort of {len(self.members_KD)} rows: expected a k from 1 to that, not {self.k}")
        if not 0 < self.weight <= 2:
            raise InputError(f"cohort weight {self.weight}: expected a value above 0 and at most 2")

    @classmethod
    def of(cls, features: FeatureSet, rule: CohortRule) -> "Cohort":
        """A cohort of all rows of a feature set. Raises InputError for a rule that cannot be applied to it."""
        return cls(features.unit(0, len(features)), rule.k, rule.weight, rule.form)

    def closeness(self, rows_nD: np.ndarray) -> np.ndarray:
        """m(x) of unit rows, float64 (n)."""
        depth = min(self.k + MARGIN, len(self.members_KD))
        _, near = nearest(rows_nD, self.members_KD, depth)
        scores = score_pairs(rows_nD, np.repeat(np.arange(len(rows_nD)), depth), self.members_KD, near.ravel())
        best = np.sort(scores.reshape(-1, depth), axis=1)[:, ::-1][:, : self.k]
        return np.ascontiguousarray(best).mean(axis=1)

    def members(self, rows_nD: np.ndarray) -> np.ndarray:
        """Unit rows as members of a gallery, float32 (n × D+1, or D+2 in the symmetric form)."""
        column = (-self.weight * self.closeness(rows_nD)).astype(np.float32)[:, None]
        ones = [np.ones_like(column)] if self.form == "symmetric" else []
        return np.hstack([rows_nD, column, *ones])

    def queries(self, rows_nD: np.ndarray) -> np.ndarray:
        """Unit rows as queries, float32 (n × D+1, or D+2 in the symmetric form)."""
        ones = np.ones((len(rows_nD), 1), np.float32)
        if self.form == "gallery":
            return np.hstack([rows_nD, ones])
        return np.hstack([rows_nD, ones, (-self.weight * self.closeness(rows_nD)).astype(np.float32)[:, None]])

    @property
    def scale(self) -> float:
        """Product of the largest lengths of a query's and a member's row, which bounds the error of a product."""
        far = 1 + self.weight**2
        return float(np.sqrt((1 + far) * (1 + far))) if self.form == "symmetric" else float(np.sqrt(2 * far))
