"""Scans by plain matrix products: one in float32, for thresholds that few rows reach, one in float64 for the others."""

from collections.abc import Iterator

import numpy as np

from megaface_eval.search.candidates import Candidates, floor_of
from megaface_eval.search.scores import product_error

PIECE_ROWS = 8192  # rows at a time
PART = 4096  # queries whose scores of one piece are held at a time: 134 MB
STRIP = 64  # queries whose scores are looked at together: 2 MB, little enough to stay in a cache
DEEPEST = 128  # open rows a query in one piece; whoever has more is scanned in float64
LOWEST = -8.0  # below any score; a pair that is left out scores -inf


class ProductScan:
    """All scores of a piece by one float32 product, looked at a few queries at a time.

    Two passes over the scores at most: for the highest of each query, and, where that one reaches the query's floor,
    for all that do. Most queries have nothing of interest in most pieces.
    """

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0):
        self.queries_QD = queries_QD
        self.error = product_error(queries_QD.shape[1]) * scale
        self.piece_rows, self.deepest = PIECE_ROWS, DEEPEST
        self._held = np.empty(0, np.float32)  # the scores' place, kept: pages new to a process cost time

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, expected: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """As `Scanner` says; what is expected makes no difference."""
        found, unfinished = [], [np.empty(0, np.int64)]
        for at in range(0, len(chosen), PART):
            part = chosen[at : at + PART]
            queries_nD = self.queries_QD if len(part) == len(self.queries_QD) else self.queries_QD[part]
            scores = self.hold(queries_nD, rows_rD)
            for strip in range(0, len(part), STRIP):
                one, left = self._look(scores[strip : strip + STRIP], part[strip : strip + STRIP], low, best)
                found.append(one)
                unfinished.append(left)
        return Candidates.join(found), np.concatenate(unfinished)

    def hold(self, left_nD: np.ndarray, right_rD: np.ndarray) -> np.ndarray:
        """Products of all rows, float32 (n×r), in a place that the next call uses again."""
        size = len(left_nD) * len(right_rD)
        if len(self._held) < size:
            self._held = np.empty(size, np.float32)
        return np.matmul(left_nD, right_rD.T, out=self._held[:size].reshape(len(left_nD), len(right_rD)))

    def _look(self, scores, chosen, low, best) -> tuple[Candidates, np.ndarray]:
        top = scores.max(axis=1)
        floor = floor_of(low[chosen], best[chosen], top, self.error)
        query, row, deep = above(scores, top, floor, self.deepest)
        score = scores[query, row].astype(np.float64)
        return Candidates(chosen[query], row, score, np.full(len(query), self.error)), chosen[deep]


def above(
    scores_nr: np.ndarray, top_n: np.ndarray, floor_n: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where float32 scores reach a row's floor (float64): (n, r) of each, by n, and those n that have more than `most`.

    top_n: the highest score of each n; those that do not reach their floor are not looked at again.
    """
    # compared in the scores' own type, rounded down so that no pair is lost
    floor_n = np.nextafter(floor_n.astype(np.float32), np.float32(-np.inf))
    hit = np.flatnonzero(top_n >= floor_n)
    scores = scores_nr if len(hit) == len(scores_nr) else scores_nr[hit]
    n, r = np.divmod(np.flatnonzero(scores >= floor_n[hit, None]), scores.shape[1])
    deep = np.bincount(n, minlength=len(hit)) > most
    if deep.any():
        kept = ~deep[n]
        n, r = n[kept], r[kept]
    return hit[n], r, hit[deep]


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
        for row_at in range(0, len(block_BD) if len(chosen) else 0, self.ROWS):
            rows_rD = block_BD[row_at : row_at + self.ROWS].astype(np.float64)
            for at in range(0, len(chosen), self.QUERIES):
                part = chosen[at : at + self.QUERIES]
                scores = self.queries_QD[part].astype(np.float64) @ rows_rD.T
                if self.labels is not None:
                    places = self.labels[1][start + row_at : start + row_at + len(rows_rD)]
                    scores[self.labels[0][part][:, None] == places] = -np.inf
                floor = floor_of(low[part], best[part], scores.max(axis=1), self.error)
                query, row = np.nonzero(scores >= np.maximum(floor, LOWEST)[:, None])
                found = scores[query, row]
                yield Candidates(part[query], row + row_at, found, np.full(len(found), self.error))
