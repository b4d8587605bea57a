"""The memory read by likelihood: probabilistic linear discriminant analysis of unit features, with two covariances.

A unit feature is u = m + ε, its person m drawn from N(g, B) and ε from N(0, W) (Prince and Elder 2007; Brümmer and
de Villiers 2010; for faces Chen et al. 2012). In the axes A where W is the identity and B diagonal, ψ, a person with n
training images of mean c is most likely at m_k = ψn/(ψn + 1) · Aᵀ(c - g): of few images less is believed. An image
x = Aᵀ(u - g) shows this person rather than one who was never seen by the logarithm

    log N(x; m_k, I) - log N(x; 0, I + ψ) = x·m_k - ‖m_k‖²/2 - Σ_d x_d² ψ_d/(1 + ψ_d)/2 + Σ_d log(1 + ψ_d)/2,

whose first two terms name the person and whose whole tells strangers. How uncertain m_k is is left out, so that a class
is a row and a bias, as for any linear classifier.

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facelt.errors import UserError
from facelt.head.blocked import accumulate_dtype
from facelt.open_world.readings.reading import Embedded
from facelt.open_world.scoring import Prototypes
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition


@dataclass(frozen=True)
class TwoCovariances:
    """The axes in which images of a person vary by one in every direction, and people by `between_D`; in float64.

    centre_D: g, the mean of the people. axes_DD: A, a column for each axis. between_D: ψ, from 0.
    """

    centre_D: Tensor
    axes_DD: Tensor
    between_D: Tensor

    @classmethod
    def of(cls, means_kD: Tensor, counts_k: Tensor, within_DD: Tensor, ridge: float) -> "TwoCovariances":
        """From this rank's means of unit features and the covariance within classes, which all ranks hold.

        W is `within_DD` plus `ridge` times its mean variance in every direction. B is the covariance of the class means
        less what the images' scatter adds to it, W/n of a mean of n. The same on all ranks.
        Raises UserError where no class has two images.
        """
        wide_kD = means_kD.double()
        classes, fewness = collectives.all_sum(
            wide_kD.new_tensor([len(wide_kD), counts_k.double().reciprocal().sum()])
        ).tolist()
        centre_D = collectives.all_sum(wide_kD.sum(0)) / classes
        about_kD = wide_kD - centre_D
        scatter_DD = collectives.all_sum(about_kD.T @ about_kD) / max(classes - 1, 1)
        between_DD = scatter_DD - within_DD * (fewness / classes)
        mean = within_DD.trace() / len(within_DD)
        if mean <= 0:
            raise UserError(
                "--read plda: no class of the training set has two images that differ, so nothing says how a person's "
                "images vary; leave plda out"
            )
        variance_D, turn_DD = torch.linalg.eigh(within_DD + ridge * mean * torch.eye(len(within_DD)).to(within_DD))
        whiten_DD = turn_DD * variance_D.clamp(min=1e-12 * mean).rsqrt()
        between_D, turn_DD = torch.linalg.eigh(whiten_DD.T @ between_DD @ whiten_DD)
        # Eigenvectors have a sign that machines choose: those of one rank serve all.
        found = group.share([part.cpu() for part in (centre_D, whiten_DD @ turn_DD, between_D.clamp(min=0))])
        return cls(*(part.to(means_kD.device) for part in found))

    def places(self, units_ND: Tensor) -> Tensor:
        """Unit features in these axes, in float64."""
        return (units_ND.double() - self.centre_D) @ self.axes_DD


@dataclass(frozen=True)
class ByLikelihood:
    """The person under whom an image is most likely. Its score is the logarithm of how much more likely it is so than
    of a person who was never seen; its probability the softmax of these over all classes."""

    covariances: TwoCovariances
    prototypes: Prototypes

    @classmethod
    def of(
        cls, means_kD: Tensor, counts_k: Tensor, within_DD: Tensor, ridge: float, partition: Partition
    ) -> "ByLikelihood":
        """See `TwoCovariances.of`."""
        covariances = TwoCovariances.of(means_kD, counts_k, within_DD, ridge)
        believed_kD = covariances.between_D * counts_k[:, None]
        rows_kD = (believed_kD / (believed_kD + 1) * covariances.places(means_kD)).to(means_kD.dtype)
        return cls(covariances, Prototypes(partition, rows_kD, rows_kD.square().sum(1) / -2))

    def __call__(self, v: Embedded) -> dict[str, Tensor]:
        direct_GD, between_D = v["direct"], self.covariances.between_D
        places_GD = self.covariances.places(normalize(direct_GD.to(accumulate_dtype(direct_GD))))
        best = self.prototypes.best(places_GD.to(self.prototypes.weight_kD.dtype))
        unseen_G = places_GD.square() @ (between_D / (1 + between_D)) - between_D.log1p().sum()
        return {"class": best.classes_G, "score": best.scores_G - unseen_G / 2, "probability": best.probabilities_G}
