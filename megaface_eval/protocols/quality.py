"""Error against reject: how errors fall as the images of worst quality are rejected.

Grother and Tabassi (PAMI 2007); the curve and its area as Schlett et al. (2022) have them. Images are rejected from the
worst up, images of equal quality together: at the share r the rejected are the largest such set of at most r·Q images,
so nothing hangs on the order of rows, and a quality that is one number for all rejects nobody. A trial goes with either
of its images. The threshold stays where it was with all images.
"""

from dataclasses import dataclass

import numpy as np

from megaface_eval.protocols import metrics
from megaface_eval.protocols.metrics import Tallies

AREA_TO = 0.2  # of the images
SHARES = tuple(number / 200 for number in range(191))  # 0 … 0.95, of the curve
SHOWN = (0.0, 0.05, 0.1, 0.2)  # with intervals


@dataclass(frozen=True)
class Trials:
    """T trials among Q images. error: bool (T). gone: int64 (T), how many images are rejected once the trial goes.

    identity: int64 (T), numbered from 0.
    """

    error: np.ndarray
    gone: np.ndarray
    identity: np.ndarray
    images: int

    @classmethod
    def of(cls, error: np.ndarray, rows_T2: np.ndarray, quality_Q: np.ndarray, labels_Q: np.ndarray) -> "Trials":
        """Trials between two images each (rows_T2), of the first one's identity."""
        # an image goes together with all that are no better
        gone_Q = np.searchsorted(np.sort(quality_Q), quality_Q, side="right")
        identity = np.unique(labels_Q, return_inverse=True)[1]
        return cls(error, gone_Q[rows_T2].min(axis=1), identity[rows_T2[:, 0]], len(quality_Q))


def errors_by_rejected(trials: Trials) -> np.ndarray:
    """Error over the trials left when 0, 1, … Q images may be rejected (Q + 1); NaN where none is left."""
    size = trials.images + 1
    left = len(trials.gone) - np.cumsum(np.bincount(trials.gone, minlength=size))
    wrong = np.bincount(trials.gone, weights=trials.error, minlength=size)
    wrong = trials.error.sum() - np.cumsum(wrong)
    return np.divide(wrong, left, out=np.full(size, np.nan), where=left > 0)


def mean_error(errors: np.ndarray, to: float = AREA_TO) -> float | None:
    """The area under the steps from 0 to the share `to`, over `to`; None where no trial is left by then."""
    images = len(errors) - 1
    edges = np.minimum(np.arange(images + 1) / images, to)
    steps = np.diff(edges)
    used = steps > 0
    area = float(errors[:-1][used] @ steps[used]) / to
    return area if np.isfinite(area) else None


def rejected_by(share: float, images: int) -> int:
    """How many images may be rejected at a share of them."""
    return int(np.floor(share * images * (1 + 1e-12)))


def measure(trials: Trials) -> dict:
    """The curve until no trial is left, errors at some shares with 95 % intervals over identities, and the area.

    mean: the area from 0 to AREA_TO over AREA_TO. relative: the same over the error of all images; below 1, the worst
    images err more than others; None without errors.
    """
    errors = errors_by_rejected(trials)
    curve = [(share, float(errors[rejected_by(share, trials.images)])) for share in SHARES]
    curve = [point for point in curve if np.isfinite(point[1])]
    area, first = mean_error(errors), float(errors[0])
    return {
        "curve": {"share": [share for share, _ in curve], "error": [error for _, error in curve]},
        "at": [_at(trials, share) for share in SHOWN],
        "mean": area,
        "relative": area / first if area is not None and first > 0 else None,
    }


def _at(trials: Trials, share: float) -> dict:
    left = trials.gone > rejected_by(share, trials.images)
    identities = int(trials.identity.max(initial=-1)) + 1
    of = trials.identity[left]
    wrong = np.bincount(of, weights=trials.error[left], minlength=identities)
    tallies = Tallies(wrong, np.bincount(of, minlength=identities).astype(float))
    low, high = metrics.interval(tallies)
    return {"share": share, "rate": tallies.rate, "low": low, "high": high, "trials": int(left.sum())}
