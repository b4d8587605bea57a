"""What stage meta adds beside the direct feature: the concept selector (equation 4) and the temperature of retrieval.

B: images, D: embedding size.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class ConceptSelector(nn.Module):
    """e = tanh(T_sel(v_direct)), equation 4; T_sel is one linear layer.

    form "zero": T_sel starts at zero, so that the memory is let in only where it helps, and takes v/‖v‖, so that e does
    not saturate as features grow. "one": e = 1, and nothing is learned.
    """

    def __init__(self, embedding_size: int, form: str = "released") -> None:
        super().__init__()
        self.form = form
        if form == "one":
            return
        self.fc = nn.Linear(embedding_size, embedding_size)
        if form == "zero":
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, direct_BD: Tensor) -> Tensor:
        if self.form == "one":
            return torch.ones_like(direct_BD)
        if self.form == "zero":
            direct_BD = normalize(direct_BD)
        return torch.tanh(self.fc(direct_BD))


class Temperature(nn.Module):
    """t of cosine retrieval, learned as its logarithm, so that it stays positive."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([start]).log())  # one dimension: DeepSpeed broadcasts no scalars

    def forward(self) -> Tensor:
        return self.log.exp()
