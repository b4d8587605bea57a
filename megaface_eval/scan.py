"""Scans of a block for distractors that may score above a floor; a scan proposes, `search` decides.

A scan returns every pair of query and row whose true score can reach the query's floor, with its approximate score,
or names the query as unfinished. It never loses a pair. The floor is the lowest score that still matters: the query's
lowest threshold, or its best distractor so far, which the block itself may raise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np

from .scores import product_error

LOWEST = -8.0  # below any score; a pair that is left out scores -inf


@dataclass(frozen=True)
class Candidates:
    """Pairs that may reach their query's floor; sorted by query.

    query, row: int64 (n), positions in the queries and the block. score: float64 (n), off by at most `error` (n).
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray
    error: np.ndarray


def engine() -> str:
    """FAISS's version and what it runs on."""
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return (
        f"{faiss.__version__} on {gpus} GPUs"
        if gpus
        else f"{faiss.__version__} on {faiss.omp_get_max_threads()} threads"
    )


def nearest(queries_nD: np.ndarray, rows_BD: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32) and rows (int64), both n × depth, of each query's highest inner products, highest first."""
    return faiss.knn(queries_nD, rows_BD, depth, metric=faiss.METRIC_INNER_PRODUCT)


def lowest_of_interest(low_q: np.ndarray, best_q: np.ndarray, top_q: np.ndarray) -> np.ndarray:
    """Lowest score of interest for each query, given the highest approximate score `top_q` of the rows at hand."""
    return np.minimum(low_q, np.maximum(best_q, top_q))


class FaissScan:
    """Exact inner-product search with FAISS for the `depth` best rows of each query, on every GPU that FAISS sees."""

    name = "faiss"

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0):
        self.queries_QD = queries_QD
        self.error = product_error(queries_QD.shape[1]) * scale
        self.gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0

    def _best(self, queries_nD: np.ndarray, block_BD: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        if not self.gpus:
            return nearest(queries_nD, block_BD, depth)
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(block_BD.shape[1]), options)
        index.add(block_BD)
        return index.search(queries_nD, depth)

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, block_BD: np.ndarray, depth: int
    ) -> tuple[Candidates, np.ndarray]:
        """Candidates of the chosen queries (indices), and those queries whose `depth` best all reach their floor."""
        depth = min(depth, len(block_BD))
        scores, rows = self._best(self.queries_QD[chosen], block_BD, depth)
        reached = scores >= (lowest_of_interest(low[chosen], best[chosen], scores[:, 0]) - self.error)[:, None]
        unfinished = reached[:, -1] if depth < len(block_BD) else np.zeros(len(chosen), bool)
        query, place = np.nonzero(reached & ~unfinished[:, None])
        score = scores[query, place].astype(np.float64)
        found = Candidates(chosen[query], rows[query, place].astype(np.int64), score, np.full(len(query), self.error))
        return found, chosen[unfinished]


class DenseScan:
    """All scores of a block by a float64 product: for queries whose floor lies among the mass of distractors."""

    QUERIES, ROWS = 512, 8192  # 34 MB of scores at a time

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0, labels: tuple[np.ndarray, np.ndarray] | None = None):
        self.queries_QD, self.labels = queries_QD, labels
        self.error = product_error(queries_QD.shape[1], np.float64) * scale

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, block_BD: np.ndarray, start: int
    ) -> Iterator[Candidates]:
        """Candidates piece by piece, so that memory stays flat; `start` is the place of the block's first row."""
        for row_at in range(0, len(block_BD), self.ROWS):
            rows_rD = block_BD[row_at : row_at + self.ROWS].astype(np.float64)
            for at in range(0, len(chosen), self.QUERIES):
                part = chosen[at : at + self.QUERIES]
                scores = self.queries_QD[part].astype(np.float64) @ rows_rD.T
                if self.labels is not None:
                    places = self.labels[1][start + row_at : start + row_at + len(rows_rD)]
                    scores[self.labels[0][part][:, None] == places] = -np.inf
                floor = lowest_of_interest(low[part], best[part], scores.max(axis=1)) - self.error
                query, row = np.nonzero(scores >= np.maximum(floor, LOWEST)[:, None])
                found = scores[query, row]
                yield Candidates(part[query], row + row_at, found, np.full(len(found), self.error))
