"""The model in one paragraph: what is replicated, what is sharded by class, and how an image flows through both.

B: images of this rank, G: images of all ranks, D: embedding size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facelt import backbone, comms, embedding, losses
from facelt.attention import ModulatedAttention
from facelt.classifier import CosineClassifier, LinearClassifier
from facelt.config import FaceltConfig, HeadConfig
from facelt.memory import CentroidMemory
from facelt.partition import Partition


class Step(NamedTuple):
    """loss: this rank's share of the objective. parts: shares of its terms, for the log. correct_B: own class first."""

    loss: Tensor
    parts: dict[str, Tensor]
    correct_B: Tensor


class Embedder(nn.Module):
    """Images -> direct feature, and the concept selector's e in stage meta. Replicated: it lives in the engine."""

    def __init__(self, config: FaceltConfig, meta: bool) -> None:
        super().__init__()
        b = config.backbone
        self.backbone = backbone.build(b.name, b.width, b.stem, b.batch_norm)
        self.attention: nn.Module = nn.Identity()
        if meta and config.head.attention:
            self.attention = ModulatedAttention(self.backbone.channels, *self._map_size(config.image_size))
        self.neck = backbone.Neck(self.backbone.channels, config.embedding_size, b.neck, self.backbone.norm_layer)
        self.selector = embedding.ConceptSelector(config.embedding_size) if meta else None

    def _map_size(self, image_size: int) -> tuple[int, int]:
        with torch.no_grad():
            mode = self.backbone.training
            shape = self.backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
            self.backbone.train(mode)
        return shape[2], shape[3]

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Direct features B x D, and e of the same shape (None in stage plain)."""
        map_BCHW = self.attention(self.backbone(images_B3HW))
        # Distances to centroids need more than autocast's eight bits: from the last map on, the weights' own precision.
        with torch.autocast(map_BCHW.device.type, enabled=False):
            direct_BD = self.neck(map_BCHW.to(self.neck.fc.weight.dtype))
            return direct_BD, None if self.selector is None else self.selector(direct_BD)


class PlainHead(nn.Module):
    """Stage plain: a linear classifier and cross-entropy, over class shards."""

    def __init__(self, config: FaceltConfig, partition: Partition) -> None:
        super().__init__()
        self.classifier = LinearClassifier(partition, config.embedding_size, config.seed)

    def forward(self, direct_BD: Tensor, _concept_BD: None, labels_G: Tensor) -> Step:
        loss, correct_B = losses.cross_entropy(*self.classifier(comms.gather(direct_BD), labels_G))
        return Step(loss, {"cross_entropy": loss.detach()}, correct_B)


class MetaHead(nn.Module):
    """Stage meta: memory, meta-embedding, cosine classifier, centroid loss, over class shards."""

    def __init__(self, config: FaceltConfig, partition: Partition) -> None:
        super().__init__()
        self.knobs: HeadConfig = config.head
        size = config.embedding_size
        self.memory = CentroidMemory(
            partition, size, self.knobs.hallucinator == "softmax", self.knobs.centroid_gradient
        )
        self.classifier = CosineClassifier(partition, size, self.knobs.scale, config.seed)

    def embeddings(self, direct_BD: Tensor, concept_BD: Tensor, direct_GD: Tensor) -> dict[str, Tensor]:
        """Every embedding of this rank's images, each B x D: the keys are `embedding.EMBEDDINGS`."""
        memory_BD, nearest_BD = self.memory.read(direct_GD)
        reach_B = embedding.reach(direct_BD, nearest_BD)
        infused_BD = embedding.infuse(direct_BD, concept_BD, memory_BD)
        meta_BD = embedding.calibrate(infused_BD, reach_B, self.knobs.reach_scale)
        squashed_BD = embedding.squash(meta_BD, self.knobs.squash)
        return {"direct": direct_BD, "infused": infused_BD, "meta": meta_BD, "squashed": squashed_BD}

    def forward(self, direct_BD: Tensor, concept_BD: Tensor, labels_G: Tensor) -> Step:
        direct_GD = comms.gather(direct_BD)
        v = self.embeddings(direct_BD, concept_BD, direct_GD)
        scores = self.classifier(comms.gather(v["squashed"]), labels_G)
        cross_entropy, correct_B = losses.cross_entropy(*scores, reduction=self.knobs.reduction)
        memory, partition = self.memory.centroids, self.memory.partition
        weight, margin = self.knobs.centroid_weight, self.knobs.margin
        if self.knobs.centroid_loss == "released":
            centroid = losses.released_centroid_loss(direct_GD, labels_G, memory, partition, weight, margin)
        else:
            meta_GD = comms.gather(v["meta"])
            centroid = losses.paper_centroid_loss(meta_GD, labels_G, memory, partition, weight, margin)
        parts = {"cross_entropy": cross_entropy.detach(), "centroid": centroid.detach()}
        return Step(cross_entropy + centroid, parts, correct_B)
