"""What a scan hands to `ranks`: the pairs of a query and a row whose score may matter.

A scan returns every pair of query and row whose true score can reach the query's floor, with its approximate score,
or names the query as unfinished. It never loses a pair. The floor is the lowest score that still matters: the query's
lowest threshold, or its best distractor so far, which the rows at hand may raise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """Pairs that may reach their query's floor; the pairs of one query stand together.

    query, row: int64 (n), positions in the queries and the rows. score: float64 (n), off by at most `error` (n).
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray
    error: np.ndarray

    @classmethod
    def join(cls, parts: list["Candidates"]) -> "Candidates":
        """The candidates of different queries as one."""
        if not parts:
            return cls(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64, np.float64)))
        return cls(*(np.concatenate(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


class Scanner(Protocol):
    """A search engine for pieces of at most `piece_rows` rows."""

    piece_rows: int
    deepest: int  # pairs of one query that it returns; a query that has more is unfinished

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, expected: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """Candidates of the chosen queries (indices, ascending), and those of them that are unfinished.

        low, best: lowest threshold and best score so far of every query (Q). expected: pairs to expect of each (Q).
        """
        ...


Scan = Callable[[np.ndarray, float], Scanner]  # queries and scale, to a scanner of them


def floor_of(low_q: np.ndarray, best_q: np.ndarray, top_q: np.ndarray, error: float | np.ndarray) -> np.ndarray:
    """Lowest approximate score of interest for each query, given the highest, `top_q`, of the rows at hand.

    The best true score is at least top_q - error, and what may reach that has an approximate score one error below.
    """
    return np.minimum(low_q, np.maximum(best_q, top_q - error)) - error
