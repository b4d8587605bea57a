"""Few-shot learning without forgetting (Gidaris and Komodakis 2018, section 3.2), class-sharded.

B: images of this rank, G: images of all ranks, D: embedding size, K: classes, k: classes of this rank.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head import losses
from facelt.head.blocked import ClassBlocks, Keys, block_for, finite, inverse_norms
from facelt.head.classifier import Scores, uniform_rows
from facelt.head.heads import HeadOutput, PlainHead
from facelt.head.memory import attend
from facelt.network.embedder import Embedded
from facelt.network.weight_generator import WeightGenerator
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition


class FewShotHead(PlainHead):
    """A cosine classifier whose rows of few-shot classes are made of their images S:

        w' = φ_avg ⊙ mean_S z + φ_att ⊙ mean_S Σ_b softmax_b(γ·cos(φ_q z, k_b))·w_b/‖w_b‖,   z = v/‖v‖

    b runs over the base classes, which have more than `few_shot` training images; k_b are keys that are learned.
    In training every few-shot class of the batch, and half of its base classes, stand as if they were new, if the batch
    has two images of them: half of these make the row, and no image attends to that class. Loss: the cross-entropy of
    all other images, over the rows of base classes that do not stand so and the rows that were made. No gradient passes
    to the rows through the attention. When the stage ends, `put_rows` makes the rows of the few-shot classes, and what
    is left is a cosine classifier like any other.

    counts_K: training images of every class, the same on all ranks.
    Raises UserError where no class, or every class, is a few-shot class.
    """

    def __init__(self, config: FaceltConfig, partition: Partition, counts_K: Tensor) -> None:
        super().__init__(config, partition, counts_K)
        most = self.plain_knobs.few_shot
        self.is_base_K = counts_K > most
        bases = int(self.is_base_K.sum())
        if bases in (0, len(counts_K)):
            few = "no class has" if bases else "every class has"
            raise UserError(
                f"plain_head.few_shot {most}: {few} at most {most} training images, {int(counts_K.min())} to "
                f"{int(counts_K.max())} is what they have; take a number between"
            )
        own = slice(*partition.bounds())
        self.register_buffer("base", torch.nonzero(self.is_base_K[own]).flatten(), persistent=False)
        self.keys = nn.Parameter(uniform_rows(partition, config.embedding_size, 1, config.seed + 1))

    base: Tensor

    def forward(self, embedded: Embedded, labels_G: Tensor, seed: int = 0) -> HeadOutput:
        """One step. seed: of which base classes stand as if they were new, the same on all ranks."""
        generation, scale = embedded.generation, self.plain_knobs.scale
        assert generation is not None
        unit_GD = normalize(collectives.gather(embedded.direct_BD))
        episode = self._episode(labels_G, torch.Generator().manual_seed(seed))
        read_GD = collectives.gather(self.read(collectives.gather(generation.query_BD), episode.base))
        by_rows = self.classifier(scale * unit_GD, labels_G.where(episode.by_row_G, -1), episode.base)
        mean_nG = episode.support_nG / episode.support_nG.sum(1, keepdim=True)
        made_nD = generation.average_D * (mean_nG @ unit_GD) + generation.attended_D * (mean_nG @ read_GD)
        scores = _with(by_rows, scale * unit_GD @ normalize(made_nD).T, episode.own_nG)
        losses_G, correct_G = losses.cross_entropy(scores, scores.own)
        asked_G = collectives.all_sum((episode.by_row_G | episode.own_nG.any(0)).to(unit_GD.dtype)) > 0
        loss = losses_G[asked_G].sum() / asked_G.sum().clamp(min=1) / group.world_size()
        correct_B = collectives.own_rows(correct_G & asked_G)
        return HeadOutput(loss, {"cross_entropy": loss.detach()}, correct_B)

    def read(self, query_GD: Tensor, base: Tensor | None = None) -> Tensor:
        """The unit rows of the base classes as each of this rank's images attends to them: B x D.

        base: local numbers of those that take part; None: all.
        """
        blocks = ClassBlocks(
            self.partition.size,
            self.products or query_GD.dtype,
            self.base if base is None else base,
            block=self.classifier.block or block_for(query_GD),
        )
        keys = Keys(self.keys, None, inverse_norms(self.keys))
        return attend(query_GD, keys, normalize(self.classifier.weight.detach()), blocks)

    def _episode(self, labels_G: Tensor, generator: torch.Generator) -> "_Episode":
        device = labels_G.device
        is_base_K = self.is_base_K.to(device)
        same_GG = labels_G[:, None] == labels_G
        number_G, place_G = same_GG.sum(1), same_GG.tril(-1).sum(1)
        drawn_K = torch.rand(len(is_base_K), generator=generator, dtype=torch.float32).to(device) < 0.5
        as_new_G = (number_G > 1) & (drawn_K | ~is_base_K)[labels_G]
        support_G = as_new_G & (place_G < number_G // 2)
        start, stop = self.partition.bounds()
        new_n = labels_G[as_new_G & (labels_G >= start) & (labels_G < stop)].unique()
        of_new_nG = new_n[:, None] == labels_G
        base_k = is_base_K[start:stop].index_fill(0, new_n - start, False)
        return _Episode(
            base=torch.nonzero(base_k).flatten(),
            by_row_G=is_base_K[labels_G] & ~as_new_G,
            support_nG=(of_new_nG & support_G).to(self.keys.dtype),
            own_nG=of_new_nG & ~support_G,
        )

    @torch.no_grad()
    def put_rows(self, generator: WeightGenerator, units_kD: Tensor, reads_kD: Tensor) -> None:
        """The few-shot classes' rows := what the generator makes of class means of unit features and of reads."""
        made_kD = generator.average * units_kD + generator.attended * reads_kD
        few_k1 = torch.ones_like(made_kD[:, :1], dtype=torch.bool).index_fill(0, self.base, False)
        self.classifier.weight.copy_(made_kD.where(few_k1, self.classifier.weight))


class _Episode(NamedTuple):
    """Which part the classes and images of a batch play. n: classes of this rank that stand as if they were new.

    base: local numbers of the base classes that do not. by_row_G: whether an image's class is one of those, of any
    rank. support_nG: 1 for the images that make a row. own_nG: whether an image is asked for that class.
    """

    base: Tensor
    by_row_G: Tensor
    support_nG: Tensor
    own_nG: Tensor


def _with(scores: Scores, made_Gn: Tensor, own_nG: Tensor) -> Scores:
    """Scores of some more classes of this rank added. own_nG: whether a class is the image's own."""
    columns, rows = torch.nonzero(own_nG, as_tuple=True)
    own = made_Gn[rows, columns]
    others_Gn = made_Gn.masked_fill(own_nG.T, -torch.inf)
    top_G = torch.cat([scores.top_G[:, None], others_Gn.detach()], 1).amax(1)
    reference_G = finite(top_G)
    sum_G = scores.sum_G * torch.exp(scores.top_G - reference_G) + torch.exp(others_Gn - reference_G[:, None]).sum(1)
    return Scores(top_G, sum_G, torch.cat([scores.own, own]), torch.cat([scores.own_rows, rows]))
