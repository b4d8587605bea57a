"""The two heads: how a batch flows through what is sharded by class, and the losses that it is trained by.

B: images of this rank, G: images of all ranks, D: embedding size, N: rows that are classified (G, or twice G).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facelt.config import FaceltConfig, StageConfig, StageName
from facelt.head import class_sampling, losses, meta_embedding, metric_losses
from facelt.head.blocked import Kernels, Pairs, release_gradients
from facelt.head.classifier import Classifier
from facelt.head.margins import Margin
from facelt.head.memory import CentroidMemory
from facelt.head.products import BY_NAME, Products
from facelt.network.embedder import Embedded
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition, sent


class Seen(NamedTuple):
    """What a step of the meta head saw, detached: for reports of the memory's health.

    hinge_B: whether each image is within the hinge of the centroid loss; None where that loss has no weight.
    """

    direct_GD: Tensor
    labels_G: Tensor
    concept_BD: Tensor
    memory_BD: Tensor
    reach_B: Tensor
    temperature: Tensor | None
    hinge_B: Tensor | None


class HeadOutput(NamedTuple):
    """What a head gives for a batch.

    loss: this rank's share of the objective, whose sum over ranks is the loss. parts: shares of its terms, detached.
    correct_B: whether the own class scored highest. seen: what the meta head's health is measured by.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    correct_B: Tensor
    seen: Seen | None = None


class Embeddings(NamedTuple):
    """Every embedding of this rank's images, and what made them: v_memory (equation 1) and γ (equation 3)."""

    direct_BD: Tensor
    infused_BD: Tensor
    meta_BD: Tensor
    squashed_BD: Tensor
    memory_BD: Tensor
    reach_B: Tensor


class Head(nn.Module):
    """What both heads have: a classifier over class shards, a margin, and a sample of the classes in each step."""

    def __init__(
        self,
        config: FaceltConfig,
        partition: Partition,
        kind: str,
        margin: Margin,
        stage_knobs: StageConfig,
        learn_scales: bool = False,
    ) -> None:
        super().__init__()
        self.partition, self.margin, self.stage_knobs = partition, margin, stage_knobs
        # float32 leaves the operands as they are: a head in float64 stays there.
        self.products: Products | None = BY_NAME[config.products]
        self.kept_bytes = int(config.score_budget_mb * 2**20)
        self.classifier = Classifier(
            partition,
            config.embedding_size,
            kind,
            config.seed,
            self.products,
            kept_bytes=self.kept_bytes,
            learn_scales=learn_scales,
        )

    def serve_by(self, kernels: Kernels | None) -> None:
        """Let what has a class axis run by these kernels in training; None: by loops over blocks."""
        for part in self.modules():
            if isinstance(part, Classifier | CentroidMemory):
                part.kernels = kernels

    def classify(self, x_ND: Tensor, labels_N: Tensor, norms_N: Tensor, chosen: Tensor | None) -> losses.CrossEntropy:
        """Cross-entropy of gathered rows, with the margin. norms_N: ‖v_direct‖ of each row's image."""
        scores = self.classifier(x_ND, labels_N, chosen)
        r = torch.linalg.vector_norm(x_ND[scores.own_rows], dim=1)
        return losses.cross_entropy(scores, self.margin(scores.own, r, scores.own_rows, norms_N))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The learned parameters as an optimizer takes them: "params", options of their own, and "lr_scale"."""
        learned = [p for p in self.parameters() if p.requires_grad]
        return [{"params": learned, "lr_scale": self.stage_knobs.classifier_lr}]

    def scalars(self) -> dict[str, float]:
        """What else a checkpoint keeps of the head, the same on all ranks."""
        return self.margin.statistics()

    def load_scalars(self, scalars: dict[str, float]) -> None:
        """Load what `scalars` gave; what is missing keeps its start."""
        self.margin.load_statistics(scalars)

    def after_step(self, applied: bool) -> None:
        """Called once the optimizer has stepped (applied) or skipped a step: the gradients are used up."""
        release_gradients(self.parameters())

    def draw(self, seed: int, labels_G: Tensor) -> tuple[torch.Generator, Tensor | None]:
        """A generator that is the same on all ranks, and the classes that take part in a step."""
        generator = torch.Generator().manual_seed(seed)
        return generator, class_sampling.choose(self.partition, labels_G, self.stage_knobs.sample_rate, generator)


class PlainHead(Head):
    """Stage plain: a linear or a cosine classifier, cross-entropy or a form of it, and perhaps a metric loss.

    counts_K: training images of every class, the same on all ranks; None: the head is read, and not trained by a loss
    with a prior.
    """

    def __init__(
        self,
        config: FaceltConfig,
        partition: Partition,
        counts_K: Tensor | None = None,
        stage: StageName = "plain",
    ) -> None:
        knobs = config.plain_head
        margin = Margin(knobs.margin, knobs.margin_size)
        super().__init__(config, partition, knobs.classifier, margin, config.stage(stage), knobs.learn_scales)
        self.plain_knobs = knobs
        if counts_K is not None and knobs.loss in ("balanced_softmax", "logit_adjusted"):
            # Of balanced softmax, log n_k: the log N between the two is the same for all classes, and tau is 1.
            self.classifier.offset_k = knobs.tau * losses.log_prior(counts_K, partition)

    def forward(self, embedded: Embedded, labels_G: Tensor, seed: int = 0) -> HeadOutput:
        """One step. seed: of the classes that are drawn, the same on all ranks."""
        direct_GD = collectives.gather(embedded.direct_BD)
        _, chosen = self.draw(seed, labels_G)
        parts, correct_G = self.classifier_parts(direct_GD, labels_G, chosen)
        loss = torch.stack([*parts.values()]).sum()
        return HeadOutput(loss, {n: part.detach() for n, part in parts.items()}, collectives.own_rows(correct_G))

    def classifier_parts(
        self, direct_GD: Tensor, labels_G: Tensor, chosen: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """This rank's shares of the classifier's loss and, if asked for, of a metric loss; correct_G."""
        knobs, ranks = self.plain_knobs, group.world_size()
        x_GD = direct_GD if self.classifier.kind == "linear" else normalize(direct_GD) * knobs.scale
        losses_G, correct_G = self.classify(x_GD, labels_G, direct_GD.norm(dim=1), chosen)
        if knobs.loss == "focal":
            losses_G = losses.focal(losses_G, knobs.focal_gamma)
        parts = {knobs.loss: losses_G.mean() / ranks}
        if knobs.metric == "lifted":
            lifted = metric_losses.lifted(direct_GD, labels_G, knobs.metric_margin)
            parts["lifted"] = knobs.metric_weight * lifted / ranks
        if knobs.metric == "range":
            ranged = metric_losses.range_loss(direct_GD, labels_G, knobs.metric_margin, knobs.range_pairs)
            parts["range"] = knobs.metric_weight * ranged / ranks
        return parts, correct_G


class MetaHead(Head):
    """Stage meta: memory, meta-embedding, cosine classifier, centroid loss.

    retrieval: in place of the configured one, such as "mean" for the control. Of a head that infuses no memory, none
    is read.
    """

    def __init__(self, config: FaceltConfig, partition: Partition, retrieval: str | None = None) -> None:
        knobs = config.head
        margin = Margin(knobs.margin, knobs.margin_size)
        super().__init__(config, partition, "cosine", margin, config.meta)
        self.knobs = knobs
        self.memory = CentroidMemory(
            partition,
            config.embedding_size,
            retrieval=(retrieval or knobs.retrieval) if knobs.memory else "none",
            softmax=knobs.hallucinator == "softmax",
            centroid_gradient=knobs.centroid_gradient,
            products=self.products,
            kept_bytes=self.kept_bytes,
        )
        self.memory.centroids.requires_grad_(knobs.centroid_update in ("released", "gradient"))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The centroids stand apart from the rest: they have a rate and may have a weight decay of their own."""
        others = [p for p in self.parameters() if p.requires_grad and p is not self.memory.centroids]
        groups: list[dict[str, Any]] = [{"params": others, "lr_scale": self.stage_knobs.classifier_lr}]
        if self.memory.centroids.requires_grad:
            decay = self.knobs.memory_weight_decay
            own_decay = {} if decay is None else {"weight_decay": decay}
            groups.append({"params": [self.memory.centroids], "lr_scale": self.stage_knobs.centroid_lr, **own_decay})
        return groups

    def embeddings(
        self,
        embedded: Embedded,
        direct_GD: Tensor,
        masked: Pairs | None = None,
        chosen: Tensor | None = None,
    ) -> Embeddings:
        """Every embedding of this rank's images.

        direct_GD: the direct features of all ranks. masked, chosen: see `CentroidMemory.read`.
        """
        direct_BD, concept_BD, temperature, _ = embedded
        assert concept_BD is not None
        memory_BD, nearest_BD = self.memory.read(direct_GD, temperature, masked, chosen)
        reach_B = meta_embedding.reach(direct_BD, nearest_BD)
        infused_BD = meta_embedding.infuse(direct_BD, concept_BD, memory_BD)
        meta_BD = infused_BD
        if self.knobs.reach:
            meta_BD = meta_embedding.calibrate(infused_BD, reach_B, self.knobs.reach_scale)
        squashed_BD = meta_embedding.squash(meta_BD, self.knobs.squash)
        return Embeddings(direct_BD, infused_BD, meta_BD, squashed_BD, memory_BD, reach_B)

    def forward(self, embedded: Embedded, labels_G: Tensor, seed: int = 0) -> HeadOutput:
        """One step. seed: of what it draws, the same on all ranks: classes that take part, own classes left out."""
        assert embedded.concept_BD is not None
        direct_GD = collectives.gather(embedded.direct_BD)
        generator, chosen = self.draw(seed, labels_G)
        v = self.embeddings(embedded, direct_GD, self._masked(labels_G, generator), chosen)
        classified_BD = v.squashed_BD if self.knobs.classify == "squashed" else v.meta_BD
        parts, correct_B = self._cross_entropies(collectives.gather(classified_BD), direct_GD, labels_G, chosen)
        pulled_BD = v.squashed_BD if self.knobs.centroid_on == "squashed" else v.meta_BD
        parts["centroid"], hinge_B = self._centroid_loss(direct_GD, pulled_BD, labels_G)
        seen = Seen(
            direct_GD=direct_GD.detach(),
            labels_G=labels_G,
            concept_BD=embedded.concept_BD.detach(),
            memory_BD=v.memory_BD.detach(),
            reach_B=v.reach_B.detach(),
            temperature=None if embedded.temperature is None else embedded.temperature.detach(),
            hinge_B=hinge_B if self.knobs.centroid_weight else None,
        )
        if self.training and self.knobs.centroid_update == "mean":
            self.memory.note(seen.direct_GD, labels_G)
        first, *others = parts.values()
        loss = sum(others, start=first)
        return HeadOutput(loss, {name: part.detach() for name, part in parts.items()}, correct_B, seen)

    def _masked(self, labels_G: Tensor, generator: torch.Generator) -> Pairs | None:
        """The own classes that this step leaves out of what their images read."""
        if not self.training or not self.knobs.mask_own:
            return None
        rows, classes = self.partition.own(labels_G)
        drawn_G = torch.rand(len(labels_G), generator=generator, dtype=torch.float32) < self.knobs.mask_own
        (drawn_G,) = sent([drawn_G], rows.device)
        return Pairs(rows, torch.where(drawn_G[rows], classes, -1))

    def _cross_entropies(
        self, classified_GD: Tensor, direct_GD: Tensor, labels_G: Tensor, chosen: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Shares of the cross-entropy of v_meta and, if asked for, of the direct feature; correct_B of v_meta."""
        knobs, G, norms_G = self.knobs, len(labels_G), direct_GD.norm(dim=1)
        weights = {"cross_entropy": 1.0}
        x_ND, labels_N, norms_N = classified_GD, labels_G, norms_G
        if knobs.direct_weight:
            weights["direct"] = knobs.direct_weight
            x_ND = torch.cat([classified_GD, normalize(direct_GD)])
            labels_N, norms_N = self.partition.joined([labels_G, labels_G]), norms_G.repeat(2)
        losses_N, correct_N = self.classify(x_ND * knobs.scale, labels_N, norms_N, chosen)
        shares = losses_N.view(-1, G).sum(1) / group.world_size() / (G if knobs.reduction == "mean" else 1)
        parts = {name: weight * share for (name, weight), share in zip(weights.items(), shares, strict=True)}
        return parts, collectives.own_rows(correct_N[:G])

    def _centroid_loss(self, direct_GD: Tensor, meta_BD: Tensor, labels_G: Tensor) -> losses.CentroidLoss:
        knobs, centroids_kD = self.knobs, self.memory.centroids
        weight, margin = knobs.centroid_weight, knobs.centroid_margin
        if knobs.centroid_loss == "paper":
            meta_GD = collectives.gather(meta_BD)
            return losses.paper_centroid_loss(
                meta_GD, labels_G, centroids_kD, self.partition, weight=weight, margin=margin
            )
        pull = knobs.centroid_update if centroids_kD.requires_grad else None
        return losses.released_centroid_loss(
            direct_GD,
            labels_G,
            centroids_kD,
            self.partition,
            weight=weight,
            margin=margin,
            pull=pull,
            moments=self.memory.moments,
        )

    def after_step(self, applied: bool) -> None:
        """Move the centroids towards the class means of the step's features, where those are what moves them."""
        super().after_step(applied)
        self.memory.follow_noted(self.knobs.centroid_momentum, applied)
