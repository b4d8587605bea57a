"""Readings by a run's own classifier: as it was trained, τ-normalised, and with adjusted logits.

k: classes of this rank.
"""

from dataclasses import replace
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.classifier import CLASSIFIER_ROWS, fold
from facelt.open_world.readings.reading import ByPrototypes, Knobs
from facelt.open_world.scoring import Prototypes
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState


def needed_embeddings(meta: bool) -> tuple[str, ...]:
    """Of `meta_embedding.EMBEDDINGS`: what the readings of a run take."""
    return ("direct", "meta", "squashed") if meta else ("direct",)


def by_classifier(folder: Path, partition: Partition, device: torch.device) -> ByPrototypes:
    """By the run's own classifier, with the logits that it was trained with, margins aside."""
    state = checkpoint.read_state(folder)
    rows = fold(group.together(checkpoint.read_rows, folder, partition, CLASSIFIER_ROWS))
    rows = {name: tensor.to(device) for name, tensor in rows.items()}
    return by_rows(
        state.config, state.stage == "meta", partition, rows["classifier.weight"], rows.get("classifier.bias")
    )


def by_rows(
    config: FaceltConfig, meta: bool, partition: Partition, weight_kD: Tensor, bias_k: Tensor | None
) -> ByPrototypes:
    """By a classifier's rows of this rank, with the logits that it is trained with, margins aside."""
    kind = "cosine" if meta else config.plain_head.classifier
    prototypes = Prototypes(
        partition,
        weight_kD,
        bias_k,
        cosine=kind == "cosine",
        products=torch.bfloat16 if config.products == "bfloat16" else None,
    )
    if meta:
        return ByPrototypes(prototypes, lambda v: v[config.head.classify] * config.head.scale)
    if kind == "cosine":
        return ByPrototypes(prototypes, lambda v: normalize(v["direct"]) * config.plain_head.scale)
    return ByPrototypes(prototypes, lambda v: v["direct"])


def own_centroids(folder: Path, partition: Partition, device: torch.device) -> Tensor:
    """This rank's centroids of a memory run, k x D."""
    rows = group.together(checkpoint.read_rows, folder, partition, {"memory.centroids"})
    return rows["memory.centroids"].to(device)


def temperature(state: CheckpointState) -> float:
    """t of the memory's softmax(t·cos): what a memory run was calibrated to."""
    return state.scalars["temperature"] if state.stage == "memory" else Knobs.temperature


def tau_normalised(classifier: ByPrototypes, tau: float) -> ByPrototypes:
    """x·(w/‖w‖^τ), the bias left out: τ-normalisation (Kang et al., ICLR 2020, section 4.3).

    Raises UserError for a cosine classifier, whose rows count with length 1 already.
    """
    prototypes = classifier.prototypes
    if prototypes.cosine:
        raise UserError(
            "--read tau: this run's classifier is cosine, its rows count with length 1 already; leave tau out, or give "
            "a plain run with a linear classifier"
        )
    norm_k1 = torch.linalg.vector_norm(prototypes.weight_kD, dim=1, keepdim=True).clamp(min=1e-12)
    return replace(
        classifier, prototypes=replace(prototypes, weight_kD=prototypes.weight_kD / norm_k1**tau, bias_k=None)
    )


def logit_adjusted(classifier: ByPrototypes, tau: float, counts_K: NDArray) -> ByPrototypes:
    """Logit - τ·log π, π_k the share of class k among the training images: Menon et al., ICLR 2021, equation 9.

    counts_K: training images of each class. Raises UserError where one has none.
    """
    if not counts_K.all():
        raise UserError(
            f"--read logit_adjusted: class {int(counts_K.argmin())} has no image in the training set, so no prior; "
            "leave logit_adjusted out"
        )
    prototypes = classifier.prototypes
    prior_K = torch.from_numpy(counts_K / counts_K.sum())
    shift_k = -tau * prior_K[slice(*prototypes.partition.bounds())].log().to(prototypes.weight_kD)
    bias_k = shift_k if prototypes.bias_k is None else prototypes.bias_k + shift_k
    return replace(classifier, prototypes=replace(prototypes, bias_k=bias_k))
