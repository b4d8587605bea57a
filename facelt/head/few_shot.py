"""Few-shot learning without forgetting (Gidaris and Komodakis 2018, section 3.2), class-sharded.

B: images of this rank, G: images of all ranks, D: embedding size, K: classes, k: classes of this rank.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head import losses
from facelt.head.blocked import ClassBlocks, Keys, Pairs, block_for, inverse_norms
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

    b runs over the base classes, which have more than `few_shot` training images; k_b are keys that are learned. In
    training an image's own class stands as if it were new: its row is made of the other images of that class in the
    batch, and its own key is left out. Loss: the cross-entropy over the base classes by the rows as they are, of the
    base classes' images, plus that with the own class's row made so, of the images that have others of their class
    beside them. No gradient passes to the rows through the attention. When the stage ends, `put_rows` makes the rows of
    the few-shot classes, and what is left is a cosine classifier like any other.

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
        """One step; nothing is drawn."""
        generation, knobs = embedded.generation, self.plain_knobs
        assert generation is not None
        unit_GD = normalize(collectives.gather(embedded.direct_BD))
        read_GD = collectives.gather(self.read(collectives.gather(generation.query_BD), labels_G))
        others_BG = self._others(labels_G)
        number_B1 = others_BG.sum(1, keepdim=True)
        mean_BG = others_BG / number_B1.clamp(min=1)
        rows_BD = generation.average_D * (mean_BG @ unit_GD) + generation.attended_D * (mean_BG @ read_GD)
        own_B = knobs.scale * cosine_similarity(collectives.own_rows(unit_GD), rows_BD)

        is_base_G = self.is_base_K.to(labels_G.device)[labels_G]
        scores = self.classifier(knobs.scale * unit_GD, labels_G.where(is_base_G, -1), self.base)
        by_rows = losses.cross_entropy(scores, scores.own)
        places, _ = self.partition.own(labels_G)
        made = Scores(scores.top_G, scores.sum_G, collectives.gather(own_B)[places], places)
        by_made = losses.cross_entropy(made, made.own)
        parts = {
            "cross_entropy": _share(by_rows.losses_N, is_base_G),
            "few_shot": _share(by_made.losses_N, collectives.gather(number_B1[:, 0]) > 0),
        }
        correct_G = by_rows.correct_N.where(is_base_G, by_made.correct_N)
        shown = {name: part.detach() for name, part in parts.items()}
        return HeadOutput(parts["cross_entropy"] + parts["few_shot"], shown, collectives.own_rows(correct_G))

    def read(self, query_GD: Tensor, labels_G: Tensor) -> Tensor:
        """The unit rows of the base classes as each of this rank's images attends to them, its own left out: B x D."""
        is_base_G = self.is_base_K.to(labels_G.device)[labels_G]
        blocks = ClassBlocks(
            self.partition.size,
            self.products or query_GD.dtype,
            self.base,
            Pairs(*self.partition.own(labels_G.where(is_base_G, -1))),
            self.classifier.block or block_for(query_GD),
        )
        keys = Keys(self.keys, None, inverse_norms(self.keys))
        return attend(query_GD, keys, normalize(self.classifier.weight.detach()), blocks)

    @torch.no_grad()
    def put_rows(self, generator: WeightGenerator, units_kD: Tensor, reads_kD: Tensor) -> None:
        """The few-shot classes' rows := what the generator makes of class means of unit features and of reads."""
        made_kD = generator.average * units_kD + generator.attended * reads_kD
        few_k1 = torch.ones_like(made_kD[:, :1], dtype=torch.bool).index_fill(0, self.base, False)
        self.classifier.weight.copy_(made_kD.where(few_k1, self.classifier.weight))

    def _others(self, labels_G: Tensor) -> Tensor:
        """1 where an image of all ranks is another one of the same class as an image of this rank, B x G; else 0."""
        places_B = collectives.own_rows(torch.arange(len(labels_G), device=labels_G.device))
        same_BG = collectives.own_rows(labels_G)[:, None] == labels_G
        return same_BG.scatter(1, places_B[:, None], False).to(self.keys.dtype)


def _share(losses_G: Tensor, counts_G: Tensor) -> Tensor:
    """This rank's share of the mean loss of those that count; zero where none does."""
    return losses_G[counts_G].sum() / counts_G.sum().clamp(min=1) / group.world_size()
