"""Scans by plain matrix products: one in float32, for thresholds that few rows reach, one in float64 for the others."""

from collections.abc import Iterator

import numpy as np

from .candidates import Candidates, floor_of
from .scores import product_error

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
            scores = self._product(part, rows_rD)
            for strip in range(0, len(part), STRIP):
                one, left = self._look(scores[strip : strip + STRIP], part[strip : strip + STRIP], low, best)
                found.append(one)
                unfinished.append(left)
        return Candidates.join(found), np.concatenate(unfinished)

    def _product(self, part: np.ndarray, rows_rD: np.ndarray) -> np.ndarray:
        size = len(part) * len(rows_rD)
        if len(self._held) < size:
            self._held = np.empty(size, np.float32)
        scores = self._held[:size].reshape(len(part), len(rows_rD))
        queries_nD = self.queries_QD if len(part) == len(self.queries_QD) else self.queries_QD[part]
        return np.matmul(queries_nD, rows_rD.T, out=scores)

    def _look(self, scores, chosen, low, best) -> tuple[Candidates, np.ndarray]:
        top = scores.max(axis=1)
        # compared in the scores' own type, rounded down so that no pair is lost
        floor = floor_of(low[chosen], best[chosen], top, self.error).astype(np.float32)
        floor = np.nextafter(floor, np.float32(-np.inf))
        hit = np.flatnonzero(top >= floor)
        scores = scores if len(hit) == len(scores) else scores[hit]
        place = np.flatnonzero(scores >= floor[hit, None])
        query, row = np.divmod(place, scores.shape[1])
        deep = np.bincount(query, minlength=len(hit)) > self.deepest
        if deep.any():
            kept = ~deep[query]
            place, query, row = place[kept], query[kept], row[kept]
        score = scores.ravel()[place].astype(np.float64)
        found = Candidates(chosen[hit[query]], row, score, np.full(len(query), self.error))
        return found, chosen[hit[deep]]


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
