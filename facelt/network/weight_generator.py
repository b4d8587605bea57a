"""What few-shot learning without forgetting adds to the network: the query of its attention, and two scalings.

B: images, D: embedding size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Generation(NamedTuple):
    """query_BD: γ times the unit query of each image. average_D, attended_D: φ_avg and φ_att."""

    query_BD: Tensor
    average_D: Tensor
    attended_D: Tensor


class WeightGenerator(nn.Module):
    """The replicated part of the weight generator of Gidaris and Komodakis (2018, section 3.2); see `FewShotHead`.

    As they start it: φ_q nearly the identity, γ = 10, φ_avg = φ_att = 1.
    """

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(embedding_size, embedding_size)
        with torch.no_grad():
            self.query.weight.normal_(std=1e-3).add_(torch.eye(embedding_size))
            self.query.bias.zero_()
        self.scale = nn.Parameter(torch.tensor([10.0]))  # one dimension: DeepSpeed broadcasts no scalars
        self.average = nn.Parameter(torch.ones(embedding_size))
        self.attended = nn.Parameter(torch.ones(embedding_size))

    def forward(self, direct_BD: Tensor) -> Generation:
        query_BD = self.scale * normalize(self.query(normalize(direct_BD)))
        return Generation(query_BD, self.average, self.attended)
