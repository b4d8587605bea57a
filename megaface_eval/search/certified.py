"""A lean scan in bfloat16 or int8 with a bound on the error of every pair, on the CPU or a GPU, by torch.

q and x are replaced by coarser q̂ and x̂; then |q·x - q̂·x̂| ≤ ‖q-q̂‖·‖x̂‖ + ‖q‖·‖x-x̂‖, with all four lengths measured.
One product of a piece goes into one place that is kept, one pass takes each query's highest score, and the few queries
whose highest reaches their floor are looked at again. Pairs that the bound leaves open are scored again by `ranks`, so
the ranks are those of any other scan. Which precision is worth it depends on the machine: `choose` tries them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from megaface_eval.processes import own_gpu
from megaface_eval.search.candidates import Candidates, floor_of
from megaface_eval.search.scores import product_error

PRECISIONS = ("bfloat16", "int8")
MOST = 512  # open rows a query in one piece, beyond which all its scores are computed instead
PIECE_ROWS = 8192  # at a time: the scores of 3,530 probes take 58 MB in bfloat16
PART = 4096  # queries whose scores of one piece are held at a time
STRIP = 1024  # rows made coarse at a time: 2 MB at D = 512, little enough to stay in a cache
BFLOAT16_ROUNDING = 1.01 * 2.0**-8  # of a product, which torch returns in bfloat16, as a share of it
MEASURING = 1e-4  # of lengths measured in float32, as a share of them; of what they are made of, MADE more
MADE = 2.0**-22


@dataclass(frozen=True)
class Coarse:
    """Rows made coarse: values · scale (a tensor, n×D). length, error: above ‖x̂‖ and ‖x-x̂‖ of each (n, float64)."""

    values: Any
    scale: float
    length: np.ndarray
    error: np.ndarray


def quantise(rows_nD: np.ndarray, precision: str) -> Coarse:
    """Rows (float32) in that precision; int8 has one scale for all."""
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(rows_nD))
    kind = getattr(torch, precision)
    scale = 1.0 if precision == "bfloat16" else max(float(rows.abs().max()), 1e-30) / 127
    values = torch.empty(rows.shape, dtype=kind)
    length, error = torch.empty(len(rows)), torch.empty(len(rows))
    for at in range(0, len(rows), STRIP):
        part = slice(at, at + STRIP)
        one = rows[part]
        coarse = one.to(kind) if scale == 1.0 else (one / scale).round_().to(kind)
        back = coarse.float() if scale == 1.0 else coarse.float().mul_(scale)
        values[part] = coarse
        torch.linalg.vector_norm(back, dim=1, out=length[part])
        torch.linalg.vector_norm(back.sub_(one), dim=1, out=error[part])
    measured = (part.numpy().astype(np.float64) * (1 + MEASURING) + MADE for part in (length, error))
    return Coarse(values, scale, *measured)


def int8_product(queries_qD, rows_rD):
    """queries @ rowsᵀ in int32, q x r, of int8.

    CUDA's kernel takes more than 16 queries, and rows and numbers of a row in eights: zeros fill them up, and what they
    add is cut off. (On the CPU a product of single numbers is none, torch 2.14: the same zeros mend it.)
    """
    import torch
    from torch.nn.functional import pad

    (q, D), r = queries_qD.shape, len(rows_rD)
    queries = pad(queries_qD, (0, -D % 8, 0, max(17 - q, 0)))
    return torch.ops.aten._int_mm(queries, pad(rows_rD, (0, -D % 8, 0, -r % 8)).T)[:q, :r]


def highest(products_nr):
    """The highest product of each row of a tensor (n)."""
    import torch

    if products_nr.dtype != torch.bfloat16:
        return products_nr.amax(dim=1)
    # from 0 up the bits of bfloat16 rise as its values do, and whole numbers are compared ten times as fast
    top = products_nr.view(torch.int16).amax(dim=1)
    below = (top < 0).nonzero()[:, 0]
    top = top.view(torch.bfloat16)
    if len(below):
        top[below] = products_nr[below].amax(dim=1)
    return top


def own_device():
    """Where this process computes: the GPU of its number on this machine, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", own_gpu(torch.cuda.device_count()) or 0)


class CertifiedScan:
    """Scans a piece in `precision`, on this process's GPU if torch sees one."""

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0, precision: str = "bfloat16"):
        import torch

        self.precision, self.piece_rows, self.deepest = precision, PIECE_ROWS, MOST
        self.device = own_device()
        # The bound counts one rounding to bfloat16, of the result: what is added up must not be rounded on the way.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.coarse = quantise(queries_QD, precision)
        self.queries = self.coarse.values.to(self.device)
        # twice: coarse rows may be longer than the rows themselves
        self.rounding = 2 * product_error(queries_QD.shape[1]) * scale
        self.true_length = np.linalg.norm(queries_QD.astype(np.float64), axis=1)
        self._held = torch.empty(0, dtype=torch.bfloat16, device=self.device)  # the products' place, kept

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, expected: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """As `Scanner` says; what is expected makes no difference."""
        rows = quantise(rows_rD, self.precision)
        values = rows.values.to(self.device)
        found, unfinished = [], [np.empty(0, np.int64)]
        for at in range(0, len(chosen), PART):
            part = chosen[at : at + PART]
            error = self.coarse.error[part] * rows.length.max() + self.true_length[part] * rows.error.max()
            one, left = self._look(self._products(part, values), part, low, best, (rows.scale, error + self.rounding))
            found.append(one)
            unfinished.append(left)
        return Candidates.join(found), np.concatenate(unfinished)

    def _products(self, part: np.ndarray, rows_rD):
        """q̂ times the rows (n×r): bfloat16 in the place that is kept, or int32."""
        import torch

        queries = self.queries if len(part) == len(self.queries) else self.queries[torch.from_numpy(part)]
        if self.precision == "int8":
            return int8_product(queries, rows_rD)
        size = len(queries) * len(rows_rD)
        if len(self._held) < size:
            self._held = torch.empty(size, dtype=torch.bfloat16, device=self.device)
        return torch.mm(queries, rows_rD.T, out=self._held[:size].view(len(queries), len(rows_rD)))

    def _look(self, products_nr, part, low, best, coarse: tuple[float, np.ndarray]) -> tuple[Candidates, np.ndarray]:
        """Candidates of these queries. coarse: the rows' scale, and the error of each query's products (n)."""
        import torch

        unit, error = self.coarse.scale * coarse[0], coarse[1]
        rounding = BFLOAT16_ROUNDING if self.precision == "bfloat16" else 0.0
        highest_n = highest(products_nr)
        top = highest_n.double().cpu().numpy() * unit
        # Rounding keeps order: a product at the floor or above is, once rounded, not below the floor rounded down.
        floor = floor_of(low[part], best[part], top - rounding * np.abs(top), error) / unit
        floor = torch.from_numpy(np.clip(floor, -(2.0**30), 2.0**30)).to(self.device)
        floor = floor.floor().to(torch.int32) if self.precision == "int8" else _below(floor)
        hit = (highest_n >= floor).nonzero()[:, 0]
        products = products_nr[hit]
        mask = products >= floor[hit, None]
        number = mask.sum(dim=1)
        mask &= (number <= MOST)[:, None]
        query, row = (one.cpu().numpy() for one in mask.nonzero(as_tuple=True))
        score = products[mask].double().cpu().numpy() * unit
        reached = hit.cpu().numpy()
        found = Candidates(part[reached[query]], row, score, error[reached[query]] + rounding * np.abs(score))
        return found, part[reached[number.cpu().numpy() > MOST]]


def _below(values):
    """A bfloat16 that is not above each float64, the largest or the next."""
    import torch

    rounded = values.to(torch.bfloat16)
    step = rounded.double().abs() * BFLOAT16_ROUNDING + 1e-30  # more than half a step, and less than one and a half
    return torch.where(rounded.double() > values, (rounded.double() - step).to(torch.bfloat16), rounded)
