"""FAISS: its scan of a piece for distractors that may score above a floor, and what it runs on."""

from functools import cache
from typing import Any

import faiss
import numpy as np

from megaface_eval.features.gallery import BLOCK_ROWS
from megaface_eval.processes import own_gpu
from megaface_eval.search.candidates import Candidates, floor_of
from megaface_eval.search.product import ProductScan
from megaface_eval.search.scores import product_error

PIECE_ROWS = 4096  # rows that FAISS is given at a time on a CPU
DEEPEST = 64  # open rows a query in one piece; whoever has more is scanned in float64
SELDOM = 0.02  # pairs to expect of a query in a piece, below which its best row is asked for alone


def gpus() -> int:
    """Number of GPUs that FAISS sees; a build without CUDA sees none."""
    return faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0


@cache
def resources() -> dict[int, Any]:
    """This process's GPUs, and what FAISS keeps on each of them, made once."""
    own = own_gpu(gpus())
    return {gpu: faiss.StandardGpuResources() for gpu in (range(gpus()) if own is None else [own])}


def engine() -> str:
    """FAISS's version and what it runs on."""
    where = f"{gpus()} GPUs" if gpus() else f"{faiss.omp_get_max_threads()} threads"
    return f"{faiss.__version__} on {where}"


def nearest(queries_nD: np.ndarray, rows_BD: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32) and rows (int64), both n × depth, of each query's highest inner products, highest first."""
    return faiss.knn(queries_nD, rows_BD, depth, metric=faiss.METRIC_INNER_PRODUCT)


class FaissScan:
    """Exact inner-product search with FAISS, on every GPU that it sees, or on its own where processes share them.

    On a CPU FAISS is fastest at one row a query, and most queries have nothing of interest in most pieces. So the best
    row alone is asked for first; all scores are computed only of those queries whose best row reaches their floor.
    Small pieces keep these few: a query's best row so far is passed about once in as many pieces as have been seen.
    A GPU is asked for the DEEPEST best rows of whole blocks, since copying costs it more than depth does.
    """

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0):
        self.queries_QD = queries_QD
        self.error = product_error(queries_QD.shape[1]) * scale
        self.product = ProductScan(queries_QD, scale)
        self.product.deepest = self.deepest = DEEPEST
        self.gpus = gpus()
        self.piece_rows = BLOCK_ROWS if self.gpus else PIECE_ROWS

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, expected: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """As `Scanner` says."""
        if self.gpus:
            return self._deepest(chosen, low, best, rows_rD)
        seldom = chosen[expected[chosen] < SELDOM]
        if len(seldom):
            queries_nD = self.queries_QD if len(seldom) == len(self.queries_QD) else self.queries_QD[seldom]
            top = nearest(queries_nD, rows_rD, 1)[0][:, 0]
            nothing = seldom[top < np.minimum(low, best)[seldom] - self.error]
            chosen = np.setdiff1d(chosen, nothing, assume_unique=True)
        return self.product(chosen, low, best, rows_rD, expected)

    def _deepest(self, chosen, low, best, rows_rD: np.ndarray) -> tuple[Candidates, np.ndarray]:
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        own = resources()
        empty = faiss.IndexFlatIP(rows_rD.shape[1])
        index = faiss.index_cpu_to_gpu_multiple_py([*own.values()], empty, options, [*own])
        index.add(rows_rD)
        depth = min(DEEPEST, len(rows_rD))
        scores, rows = index.search(self.queries_QD[chosen], depth)
        reached = scores >= floor_of(low[chosen], best[chosen], scores[:, 0], self.error)[:, None]
        unfinished = reached[:, -1] if depth < len(rows_rD) else np.zeros(len(chosen), bool)
        query, place = np.nonzero(reached & ~unfinished[:, None])
        score = scores[query, place].astype(np.float64)
        found = Candidates(chosen[query], rows[query, place].astype(np.int64), score, np.full(len(query), self.error))
        return found, chosen[unfinished]
