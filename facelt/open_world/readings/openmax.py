"""OpenMax (Bendale & Boult, CVPR 2016): scores revised by how far an image is from the classes that score highest.

Activation vectors are the embeddings that the classifier scores (D numbers, not K scores), distances Euclidean. The
revision is that of the authors' code: with classes in the order of their scores, i = 1 … α, and w(d) the class's
Weibull distribution of distances, v̂_i = v_i·(1 - (α + 1 - i)/α · w(d_i)), and the unknown class has Σ (v_i - v̂_i).

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank, A: classes that are looked at.
"""

import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import weibull_min
from torch import Tensor
from tqdm import tqdm

from facelt.errors import UserError
from facelt.open_world.readings.reading import ByPrototypes, Embedded
from facelt.parallel import collectives, group
from facelt.training.class_means import ClassMeans

SMALLEST_TAIL = 3  # distances that a fit of two numbers needs
PIECE = 4096  # rows that are read back at once


@dataclass(frozen=True)
class Tails:
    """Of this rank's classes: the mean activation vector, and shape and scale of the Weibull distribution."""

    means_kD: Tensor
    shape_k: Tensor
    scale_k: Tensor


@dataclass(frozen=True)
class OpenMax:
    """The classifier's answer after revision. alpha: how many of the best classes are revised, K at most."""

    classifier: ByPrototypes
    tails: Tails
    alpha: int

    def __call__(self, v: Embedded) -> dict[str, Tensor]:
        """class: the best known one. probability: its own among K + 1, -1 where unknown is more probable.

        known: log P(any class) - log P(unknown).
        """
        x_GD = self.classifier.query(v)
        K = self.classifier.prototypes.partition.num_classes
        alpha = min(self.alpha, K)
        # One more than is revised: after revision it may be the best.
        top = self.classifier.prototypes.top(x_GD, min(alpha + 1, K))
        weight_A = (1 - torch.arange(top.scores_GA.shape[1], device=x_GD.device) / alpha).clamp(min=0)
        revised_GA = top.scores_GA * (1 - weight_A * self._beyond(x_GD, top.classes_GA))
        unknown_G = (top.scores_GA - revised_GA).sum(1)
        known_G = torch.logaddexp(revised_GA.logsumexp(1), top.rest_G)
        total_G = torch.logaddexp(known_G, unknown_G)
        best_G, at_G = revised_GA.max(1)
        accepted_G = best_G >= unknown_G
        return {
            "class": top.classes_GA.gather(1, at_G[:, None])[:, 0],
            "score": best_G,
            "probability": (best_G - total_G).exp().where(accepted_G, -1),
            "known": known_G - unknown_G,
        }

    def _beyond(self, x_GD: Tensor, classes_GA: Tensor) -> Tensor:
        """w(d): the share of a class's images that are nearer to its mean, G x A, on all ranks."""
        rows, own = self.classifier.prototypes.partition.own(classes_GA.flatten())
        image = rows // classes_GA.shape[1]
        distance = torch.linalg.vector_norm(x_GD[image].to(self.tails.means_kD.dtype) - self.tails.means_kD[own], dim=1)
        share = -torch.expm1(-((distance / self.tails.scale_k[own]) ** self.tails.shape_k[own]))
        flat = share.new_zeros(classes_GA.numel())
        flat[rows] = share
        return collectives.all_sum(flat).view(classes_GA.shape)


class TailCollector:
    """What OpenMax takes from a training set, in one pass.

    Rows of rightly classified images of this rank's classes wait in a temporary file until the means are known.
    """

    def __init__(self, classifier: ByPrototypes) -> None:
        self.classifier, self.partition = classifier, classifier.prototypes.partition
        self.every: ClassMeans | None = None
        self.right: ClassMeans | None = None
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `fit`
        self._columns: list[NDArray[np.int64]] = []

    def add(self, v: Embedded, labels_G: Tensor) -> None:
        """One batch. labels_G: of all ranks' images, -1 for those that do not count. All ranks must call it."""
        x_GD = self.classifier.query(v).float()
        right_G = labels_G.where(self.classifier.prototypes.best(x_GD).classes_G == labels_G, -1)
        if self.every is None or self.right is None:
            self.every, self.right = (ClassMeans(self.partition, x_GD.shape[1], x_GD) for _ in range(2))
        self.every.add_gathered(x_GD, labels_G)
        self.right.add_gathered(x_GD, right_G)
        rows, columns = self.partition.own(right_G)
        self._file.write(x_GD[rows].cpu().numpy().tobytes())
        self._columns.append(columns.cpu().numpy())

    def fit(self, tail: int) -> Tails:
        """Means of rightly classified images, and a Weibull distribution at the `tail` largest distances of each class.

        A class without rightly classified images has the mean of all its images. One with fewer than three distances,
        or three that are alike, has the median shape and scale of the classes that have more. Raises UserError where
        none has.
        """
        assert self.every is not None
        assert self.right is not None
        means_kD, counts_k = self.every.result(), self.right.counts_k
        right_kD = self.right.sums_kD / counts_k.clamp(min=1)[:, None]
        means_kD = torch.where(counts_k[:, None] > 0, right_kD, means_kD)
        columns, distances = self._distances(means_kD)
        order = np.lexsort((distances, columns))
        distances = distances[order]
        ends = np.cumsum(np.bincount(columns, minlength=self.partition.size))
        starts = np.concatenate([[0], ends[:-1]])
        fits_k2 = np.full((self.partition.size, 2), np.nan)
        for k in tqdm(range(self.partition.size), desc="Weibull tails", delay=1, disable=group.rank() > 0):
            fits_k2[k] = fit_tail(distances[max(starts[k], ends[k] - tail) : ends[k]])
        median_2 = self._median(fits_k2)
        fits_k2 = np.where(np.isnan(fits_k2), median_2, fits_k2)
        shape_k, scale_k = torch.from_numpy(fits_k2).to(means_kD).unbind(1)
        return Tails(means_kD, shape_k, scale_k)

    def _distances(self, means_kD: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Class and distance to its mean of each row that waits in the file, which ends here."""
        columns, D = np.concatenate(self._columns), means_kD.shape[1]
        pieces: list[NDArray[np.float64]] = []
        with self._file as file:
            file.seek(0)
            for start in range(0, len(columns), PIECE):
                at = torch.from_numpy(columns[start : start + PIECE])
                rows = np.frombuffer(file.read(4 * D * len(at)), np.float32).reshape(-1, D).copy()
                difference = torch.from_numpy(rows).to(means_kD) - means_kD[at.to(means_kD.device)]
                pieces.append(torch.linalg.vector_norm(difference, dim=1).double().cpu().numpy())
        return columns, np.concatenate(pieces) if pieces else np.empty(0)

    def _median(self, fits_k2: NDArray[np.float64]) -> NDArray[np.float64]:
        """The median shape and scale of the classes of all ranks that have one."""
        most = -(-self.partition.num_classes // self.partition.world_size)
        padded = np.full((most, 2), np.nan)
        padded[: len(fits_k2)] = fits_k2
        device = self.classifier.prototypes.weight_kD.device
        every = collectives.table(torch.from_numpy(padded).to(device)).flatten(0, 1).cpu().numpy()
        every = every[~np.isnan(every[:, 0])]
        if not len(every):
            raise UserError(
                f"--read openmax: no class has {SMALLEST_TAIL} training images that the classifier names rightly, so "
                "no tail can be fitted; leave openmax out"
            )
        return np.median(every, axis=0)


def fit_tail(distances: NDArray[np.float64]) -> tuple[float, float]:
    """Shape and scale of a Weibull distribution from 0, by maximum likelihood; NaN where these cannot be told."""
    if len(distances) < SMALLEST_TAIL or distances[0] <= 0 or distances[-1] <= distances[0] * (1 + 1e-6):
        return np.nan, np.nan
    shape, _, scale = map(float, weibull_min.fit(distances, floc=0))  # pyright: ignore[reportArgumentType] - all floats
    return (shape, scale) if np.isfinite([shape, scale]).all() else (np.nan, np.nan)
