"""A scan in bfloat16 or int8 with a bound on the error of every pair, on the CPU or a GPU, by torch.

q and x are replaced by coarser q̂ and x̂; then |q·x - q̂·x̂| ≤ ‖q-q̂‖·‖x̂‖ + ‖q‖·‖x-x̂‖, with all four lengths measured.
Pairs that the bound leaves open are scored again by `ranks`, so the ranks are those of any other scan. Which precision
is worth it depends on the machine: `choose` tries them.
"""

import numpy as np

from megaface_eval.processes import own_gpu
from megaface_eval.search.candidates import Candidates, floor_of
from megaface_eval.search.scores import product_error

PRECISIONS = ("bfloat16", "int8")
MOST = 512  # open rows a query in one block, beyond which all its scores are computed instead
PIECE_ROWS = 8192  # at a time: the scores of 3,530 probes take 58 MB in bfloat16
BFLOAT16_ROUNDING = 2.0**-8  # of a product, which torch returns in bfloat16


def quantise(rows_nD: np.ndarray, precision: str):
    """(q̂ as a torch tensor, its scale, ‖q̂‖ and ‖q-q̂‖ of each row, both float64)."""
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(rows_nD))
    if precision == "bfloat16":
        coarse, scale = rows.to(torch.bfloat16), 1.0
    else:
        scale = max(float(rows.abs().max()), 1e-30) / 127
        coarse = (rows / scale).round().to(torch.int8)
    back = coarse.double() * scale
    return coarse, scale, back.norm(dim=1).numpy(), (rows.double() - back).norm(dim=1).numpy()


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


def own_device():
    """Where this process computes: the GPU of its number on this machine, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", own_gpu(torch.cuda.device_count()) or 0)


class CertifiedScan:
    """Scans a block in `precision`, on this process's GPU if torch sees one."""

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0, precision: str = "bfloat16"):
        import torch

        self.precision, self.piece_rows, self.deepest = precision, PIECE_ROWS, MOST
        self.device = own_device()
        # The bound counts one rounding to bfloat16, of the result: what is added up must not be rounded on the way.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        queries, self.query_scale, self.query_length, self.query_error = quantise(queries_QD, precision)
        self.queries = queries.to(self.device)
        self.rounding = product_error(queries_QD.shape[1]) * scale
        self.true_length = np.linalg.norm(queries_QD.astype(np.float64), axis=1)

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, expected: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """As `Scanner` says; what is expected makes no difference."""
        import torch

        rows, row_scale, row_length, row_error = quantise(rows_rD, self.precision)
        chosen_rows = torch.from_numpy(chosen).to(self.device)
        if self.precision == "bfloat16":
            products = self.queries[chosen_rows] @ rows.to(self.device).T
        else:
            products = int8_product(self.queries[chosen_rows], rows.to(self.device))
        unit = self.query_scale * row_scale
        by_query = self.query_error[chosen] * row_length.max() + self.true_length[chosen] * row_error.max()
        by_query += self.rounding
        top = products.amax(dim=1).double().cpu().numpy() * unit
        if self.precision == "bfloat16":
            by_query += BFLOAT16_ROUNDING * self.query_length[chosen] * row_length.max()
        floor = floor_of(low[chosen], best[chosen], top, by_query) / unit
        floor = torch.from_numpy(np.clip(floor, -(2.0**24), 2.0**24)).to(self.device)
        # rounded down to the products' own type, so that the comparison cannot lose a pair
        floor = floor.floor().to(torch.int32) if self.precision == "int8" else _below(floor)
        mask = products >= floor[:, None]
        number = mask.sum(dim=1)
        mask &= (number <= MOST)[:, None]
        query, row = (part.cpu().numpy() for part in mask.nonzero(as_tuple=True))
        score = products[mask].double().cpu().numpy() * unit
        found = Candidates(chosen[query], row, score, by_query[query])
        return found, chosen[number.cpu().numpy() > MOST]


def _below(values):
    """The largest bfloat16 that is not above each float64."""
    import torch

    rounded = values.to(torch.bfloat16)
    step = rounded.double().abs() * BFLOAT16_ROUNDING + 1e-30
    return torch.where(rounded.double() > values, (rounded.double() - step).to(torch.bfloat16), rounded)
