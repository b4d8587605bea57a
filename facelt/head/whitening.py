"""The covariance of features within classes, and a linear map that makes it more even.

B: images of this rank, D: embedding size, k: classes of this rank.
"""

import torch
from torch import Tensor

from facelt.parallel import collectives


class WithinClasses:
    """The covariance of features about the means of their classes, summed in float64. All ranks must add alike."""

    def __init__(self, embedding_size: int, device: torch.device) -> None:
        self.moment_DD = torch.zeros(embedding_size, embedding_size, dtype=torch.float64, device=device)

    def add(self, features_BD: Tensor) -> None:
        """Add this rank's features."""
        wide_BD = features_BD.double()
        self.moment_DD.addmm_(wide_BD.T, wide_BD)

    def result(self, means_kD: Tensor, counts_k: Tensor) -> Tensor:
        """Σ_i (u_i - m_y)(u_i - m_y)ᵀ / (N - K), D x D, the same on all ranks; zero where every class has one image.

        means_kD, counts_k: of this rank's classes, of the features that were added.
        """
        wide_kD = means_kD.double()
        about_DD = self.moment_DD - (wide_kD * counts_k[:, None]).T @ wide_kD
        freedom = (counts_k - 1).sum()
        return collectives.all_sum(about_DD) / collectives.all_sum(freedom).clamp(min=1)


def whitening(covariance_DD: Tensor, power: float, ridge: float) -> Tensor:
    """W = (S + ridge·s·I)^(-power/2), D x D and symmetric, times what makes its trace D; s is the mean variance.

    power 1 and ridge 0 leave a covariance of one in every direction; 0 leaves all as it is, as does S = 0.
    """
    D = len(covariance_DD)
    variance_D, axes_DD = torch.linalg.eigh(covariance_DD)
    mean = variance_D.mean()
    if mean <= 0:
        return torch.eye(D, dtype=covariance_DD.dtype, device=covariance_DD.device)
    stretch_D = (variance_D.clamp(min=0) + ridge * mean).pow(-power / 2)
    return axes_DD * (stretch_D / stretch_D.mean()) @ axes_DD.T
