"""The probes of one method as they are scored: as queries, and as members of a gallery."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megaface_eval.protocols.cohort import Cohort


@dataclass(frozen=True)
class Probes:
    """unit_QD: unit rows, float32. labels_Q: their identities, int64. cohort: tells queries and members apart."""

    unit_QD: np.ndarray
    labels_Q: np.ndarray
    cohort: Cohort | None = None

    def __len__(self) -> int:
        return len(self.labels_Q)

    @cached_property
    def queries_QD(self) -> np.ndarray:
        """The probes as queries; with a cohort they have further columns."""
        return self.cohort.queries(self.unit_QD) if self.cohort else self.unit_QD

    @cached_property
    def members_QD(self) -> np.ndarray:
        """The probes as members of a gallery; without a cohort the same array as the queries."""
        return self.as_members(self.unit_QD)

    def as_members(self, unit_nD: np.ndarray) -> np.ndarray:
        """Any unit rows as members of a gallery."""
        return self.cohort.members(unit_nD) if self.cohort else unit_nD

    @property
    def scale(self) -> float:
        """Product of the largest lengths of a query and a member."""
        return self.cohort.scale if self.cohort else 1.0
