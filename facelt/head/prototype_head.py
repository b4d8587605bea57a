"""The head of stage memory: the plain head goes on, and beside it the memory is trained to be read as prototypes.

B: images of this rank, G: images of all ranks, D: embedding size, K: classes, k: classes of this rank.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facelt.config import FaceltConfig
from facelt.head import losses
from facelt.head.heads import HeadOutput, PlainHead
from facelt.head.margins import cosface
from facelt.head.memory import CentroidMemory
from facelt.network.embedder import Embedded
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition


class PrototypeHead(PlainHead):
    """Loss: that of `PlainHead` + weight · CE(scale·(cos(v, c_y) - m_y), …, scale·cos(v, c_k), …), + prior·log n_k.

    The centroids c are moving averages of unit features; no gradient moves them. A checkpoint keeps what the memory is
    read with: the temperature, and the cosine below which an image is taken for a stranger (`training.calibration`).

    counts_K: training images of every class, the same on all ranks.
    """

    def __init__(self, config: FaceltConfig, partition: Partition, counts_K: Tensor) -> None:
        super().__init__(config, partition, counts_K, "memory")
        self.knobs = config.memory_head
        self.memory = CentroidMemory(
            partition,
            config.embedding_size,
            retrieval="cosine",
            products=self.products,
            kept_bytes=self.kept_bytes,
        )
        self.memory.centroids.requires_grad_(False)
        self.register_buffer("counts_k", counts_K[slice(*partition.bounds())], persistent=False)
        self.smallest = int(counts_K.min())
        self.calibrated: dict[str, float] = {}

    counts_k: Tensor

    def forward(self, embedded: Embedded, labels_G: Tensor, seed: int = 0) -> HeadOutput:
        """One step. seed: of the classes that are drawn, the same on all ranks. correct_B is that of the memory."""
        direct_GD = collectives.gather(embedded.direct_BD)
        _, chosen = self.draw(seed, labels_G)
        parts, _ = self.classifier_parts(direct_GD, labels_G, chosen)
        unit_GD = normalize(direct_GD)
        losses_G, correct_G = self._by_memory(unit_GD, labels_G, chosen)
        parts["memory"] = self.knobs.weight * losses_G.mean() / group.world_size()
        if self.training:
            self.memory.note(unit_GD.detach(), labels_G)
        loss = torch.stack([*parts.values()]).sum()
        shares = {name: part.detach() for name, part in parts.items()}
        return HeadOutput(loss, shares, collectives.own_rows(correct_G))

    def _by_memory(self, unit_GD: Tensor, labels_G: Tensor, chosen: Tensor | None) -> losses.CrossEntropy:
        knobs = self.knobs
        counts_k = self.counts_k.to(unit_GD.dtype)
        prior_k = knobs.prior * counts_k.log() if knobs.prior else None
        scores = self.memory.scores(knobs.scale * unit_GD, labels_G, prior_k, chosen)
        _, columns = self.partition.own(labels_G)
        margins = knobs.margin * (self.smallest / counts_k[columns]) ** knobs.margin_power
        return losses.cross_entropy(scores, cosface(scores.own, knobs.scale * margins, 1.0))

    def after_step(self, applied: bool) -> None:
        """Move the centroids towards the class means of the step's unit features."""
        super().after_step(applied)
        self.memory.follow_noted(self.knobs.momentum, applied)

    def scalars(self) -> dict[str, float]:
        """What the margin remembers, and what the memory was calibrated to."""
        return {**super().scalars(), **self.calibrated}

    def load_scalars(self, scalars: dict[str, float]) -> None:
        """Load what `scalars` gave."""
        super().load_scalars(scalars)
        self.calibrated = {name: scalars[name] for name in CALIBRATED if name in scalars}


CALIBRATED = ("temperature", "threshold")
