"""A scan of the gallery's first principal dimensions, with a bound on what the others can add to a score.

With axes U (D×p), a = Uᵀx, b = Uᵀq and residuals x - Ua and q - Ub: q·x ≤ b·a + ‖q - Ub‖·‖x - Ua‖, which is one
product in p+1 dimensions. Only pairs whose bound reaches their query's floor are scored. Features of faces lie near
far fewer dimensions than they have, and then few do; rows spread evenly over all dimensions leave every pair open, and
are scanned by a whole product. Which is cheaper is estimated for each query, on rows seen a while after the start.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.search.candidates import Candidates
from megaface_eval.search.product import PART, STRIP, ProductScan, above
from megaface_eval.search.scores import product_error, score_pairs

FIRST = 32768  # rows scanned whole before the axes are first chosen; they are again each time it is four times as many
SAMPLE, TRIAL = 2048, 256  # rows and queries on which the cost of a number of axes is estimated
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8)  # of the dimensions, that are tried
OPEN_COST = 130  # of scoring one pair by itself, in pairs of a product
FIXED_COST = 0.08  # of whatever does not depend on p, as a share of the product
WORTH = 0.95  # share of the product's cost, above which it is not worth it
MOST = 64  # open rows a query in one piece, above which the product takes it over


@dataclass(frozen=True)
class Axes:
    """p axes U (D×p), and the queries on them: b and the residual's length (Q × p+1).

    With γ of `product_error`, η = ‖UᵀU - I‖ and each length at most 1, ‖fl(Uᵀx) - Uᵀx‖ ≤ ε = √p·γ·√(1+η), and
    ‖a‖ ≤ c = √(1+η) + ε. Then ‖x - Ua‖² ≤ ‖x‖² - ‖a‖² + slack, and the bound holds with `error` added.
    """

    axes_Dp: np.ndarray
    slack: float
    error: float
    queries_Qe: np.ndarray

    @classmethod
    def of(cls, axes_Dp: np.ndarray, queries_QD: np.ndarray, scale: float) -> "Axes":
        dimension, p = axes_Dp.shape
        gram = axes_Dp.T.astype(np.float64) @ axes_Dp.astype(np.float64)
        skew = float(np.linalg.norm(gram - np.eye(p)))
        gamma = product_error(dimension)
        astray = np.sqrt(p * (1 + skew)) * gamma
        longest = np.sqrt(1 + skew) + astray
        slack = 2 * longest * astray + skew * longest**2 + 2 * gamma * longest**2
        error = skew * longest**2 + 2 * longest * (astray + skew * longest) + 1.1 * product_error(p + 1)
        axes = cls(axes_Dp, slack, scale * (error + product_error(dimension, np.float64)), np.empty(0))
        return cls(axes_Dp, slack, axes.error, axes.place(queries_QD))

    def place(self, rows_nD: np.ndarray) -> np.ndarray:
        """a and an upper bound on the residual's length of each row, float32 (n × p+1)."""
        p = self.axes_Dp.shape[1]
        placed = np.empty((len(rows_nD), p + 1), np.float32)
        placed[:, :p] = rows_nD @ self.axes_Dp
        whole = np.einsum("nd,nd->n", rows_nD, rows_nD).astype(np.float64)
        inside = np.einsum("np,np->n", placed[:, :p], placed[:, :p])
        rest = np.sqrt(np.maximum(whole * (1 + self.slack) - inside, 0))
        placed[:, p] = np.nextafter(rest.astype(np.float32), np.float32(np.inf))
        return placed


def principal_axes(rows_nD: np.ndarray) -> np.ndarray:
    """Directions along which rows lie farthest from the origin, farthest first, orthonormal (D×D, float32)."""
    moments = rows_nD.T @ rows_nD
    return np.linalg.eigh(moments.astype(np.float64))[1][:, ::-1].astype(np.float32)


class PrefixScan:
    """Scans few dimensions where the bound leaves few pairs open; else as ProductScan does."""

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0, first: int | None = None):
        """first: rows scanned whole before the axes are first chosen (FIRST)."""
        self.queries_QD, self.scale = queries_QD, scale
        self.product = ProductScan(queries_QD, scale)
        self.piece_rows, self.deepest = self.product.piece_rows, self.product.deepest
        self.axes: Axes | None = None
        self.eased = np.zeros(len(queries_QD), bool)  # queries that the axes pay for
        self.seen, self.next_choice = 0, FIRST if first is None else first

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, expected: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """As `Scanner` says."""
        self.seen += len(rows_rD)
        floor = np.minimum(low, best)
        if self.seen > self.next_choice and min(len(chosen), len(rows_rD) // self.queries_QD.shape[1]) > 0:
            self.next_choice = 4 * self.seen
            self._choose(chosen, floor, rows_rD)
        if self.axes is None:
            return self.product(chosen, low, best, rows_rD, expected)
        eased = chosen[self.eased[chosen]]
        found, left = self._scan(self.axes, eased, floor, rows_rD)
        rest = np.concatenate([chosen[~self.eased[chosen]], left])
        rest.sort()
        if len(left) > len(eased) / 2:  # these rows are not like those that the axes were chosen on
            self.axes = None
        if len(rest) == 0:
            return found, rest
        more, unfinished = self.product(rest, low, best, rows_rD, expected)
        return Candidates.join([found, more]), unfinished

    def _choose(self, chosen: np.ndarray, floor: np.ndarray, rows_rD: np.ndarray) -> None:
        """Take the number of axes that costs the least, and the queries that they pay for; none if they save little."""
        dimension = self.queries_QD.shape[1]
        every = principal_axes(rows_rD)
        sample = rows_rD[:: -(-len(rows_rD) // SAMPLE)]
        some = chosen[:: -(-len(chosen) // TRIAL)]
        self.axes, least = None, WORTH
        for p in sorted({max(1, round(share * dimension)) for share in SHARES}):
            axes = Axes.of(np.ascontiguousarray(every[:, :p]), self.queries_QD[some], self.scale)
            mean = np.minimum(self._cost(axes, axes.queries_Qe, floor[some], sample) + p / len(chosen), 1).mean()
            if mean < least:
                least, self.axes = mean, axes
        if self.axes is not None:
            self.axes = Axes.of(self.axes.axes_Dp, self.queries_QD, self.scale)
            cost = self._cost(self.axes, self.axes.queries_Qe[chosen], floor[chosen], sample)
            self.eased[:] = False
            self.eased[chosen[cost < 1]] = True

    def _cost(self, axes: Axes, queries_ne: np.ndarray, floor_n: np.ndarray, sample_rD: np.ndarray) -> np.ndarray:
        """Time of each of these queries under the axes, as a share of the product's; infinite beyond MOST open rows."""
        bounds = queries_ne @ axes.place(sample_rD).T
        open_share = (bounds >= (floor_n - axes.error)[:, None]).mean(axis=1)
        cost = queries_ne.shape[1] / self.queries_QD.shape[1] + FIXED_COST + OPEN_COST * open_share
        return np.where(open_share * self.piece_rows < MOST / 2, cost, np.inf)

    def _scan(
        self, axes: Axes, eased: np.ndarray, floor: np.ndarray, rows_rD: np.ndarray
    ) -> tuple[Candidates, np.ndarray]:
        """Candidates of these queries, and those of them that have too many open pairs."""
        placed = axes.place(rows_rD)
        query, row, left = [], [], [np.empty(0, np.int64)]
        for at in range(0, len(eased), PART):
            part = eased[at : at + PART]
            bounds = self.product.hold(axes.queries_Qe[part], placed)
            for strip in range(0, len(part), STRIP):
                some = part[strip : strip + STRIP]
                held = bounds[strip : strip + STRIP]
                one, other, deep = above(held, held.max(axis=1), floor[some] - axes.error, MOST)
                query.append(some[one])
                row.append(other)
                left.append(some[deep])
        query, row = (np.concatenate(parts) if parts else np.empty(0, np.int64) for parts in (query, row))
        score = score_pairs(self.queries_QD, query, rows_rD, row)
        kept = score >= floor[query]
        # a score by definition: off by nothing
        found = Candidates(query[kept], row[kept], score[kept], np.zeros(int(kept.sum())))
        return found, np.concatenate(left)
