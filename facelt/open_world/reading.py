"""What a run says of every image: the best class by its own classifier and by its memory, and signals for strangers.

G: images of all ranks, B: of this rank, N: images of a set, D: embedding size, k: classes of this rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from facelt.errors import UserError, one_line
from facelt.features.recognisers import Recognised, Recogniser, from_checkpoint
from facelt.images.dali import Decoding
from facelt.images.one_pass import each_batch
from facelt.open_world.scoring import Prototypes
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.training import checkpoint
from facelt.training.class_means import ClassMeans
from recordio_tools.dataset import RecordDataset

TEMPERATURE = 16.0  # t of softmax(t·cos): the scale of the released head

Columns = dict[str, NDArray]


@dataclass(frozen=True)
class Reading:
    """One way to name an image. query: gathered embeddings by name -> G x D, what the prototypes score."""

    prototypes: Prototypes
    query: Callable[[dict[str, Tensor]], Tensor]


def needed_embeddings(meta: bool) -> tuple[str, ...]:
    """Of `meta_embedding.EMBEDDINGS`: what the readings of a run take."""
    return ("direct", "meta", "squashed") if meta else ("direct",)


def by_classifier(folder: Path, partition: Partition, device: torch.device) -> Reading:
    """By the run's own classifier, with the logits that it was trained with, margins aside."""
    state = checkpoint.read_state(folder)
    config, meta = state.config, state.stage == "meta"
    kind = "cosine" if meta else config.plain_head.classifier
    names = {"classifier.weight", "classifier.bias"}
    rows = group.together(checkpoint.read_rows, folder, partition, names)
    weight_kD, bias_k = rows["classifier.weight"].to(device), rows.get("classifier.bias")
    prototypes = Prototypes(
        partition,
        weight_kD,
        None if bias_k is None else bias_k.to(device),
        cosine=kind == "cosine",
        products=torch.bfloat16 if config.products == "bfloat16" else None,
    )
    if meta:
        return Reading(prototypes, lambda v: v["squashed"] * config.head.scale)
    if kind == "cosine":
        return Reading(prototypes, lambda v: normalize(v["direct"]) * config.plain_head.scale)
    return Reading(prototypes, lambda v: v["direct"])


def by_memory(folder: Path, dataset: RecordDataset, batch: int, partition: Partition, device: torch.device) -> Reading:
    """By the class whose centroid has the highest cosine to the direct feature; softmax over TEMPERATURE·cos.

    The centroids are the means of the unit direct features of a training set: one pass, whatever memory the run has.
    Raises UserError where a class has no image.
    """
    recogniser = from_checkpoint(folder, ("direct",), device)
    means: ClassMeans | None = None
    labels = torch.from_numpy(dataset.labels)
    decoding = recogniser.decoding(batch, device)
    with one_line("facelt.evaluate", every_rank=True):  # an image that does not decode is of one rank
        for part in each_batch(recogniser.embed, dataset, decoding, "memory of unit features"):
            unit_BD = normalize(part.output.features[0].float())
            means = means or ClassMeans(partition, unit_BD.shape[1], unit_BD)
            means.add(unit_BD, labels[part.images_G].to(device), torch.from_numpy(part.valid_G).to(device))
    assert means is not None  # a data folder holds an image at least
    return Reading(
        Prototypes(partition, means.result(), cosine=True), lambda v: normalize(v["direct"].float()) * TEMPERATURE
    )


def read_set(
    recogniser: Recogniser, readings: dict[str, Reading], dataset: RecordDataset, decoding: Decoding, title: str
) -> Columns:
    """What a run says of every image of a set, N each, on all ranks.

    Args:
        recogniser: with the embeddings that the readings take.
        readings: by name.
        dataset: in whose order the columns stand.
        decoding: as the recogniser wants it.
        title: of the progress bar.

    Returns:
        NAME.class, NAME.score and NAME.probability of each reading, and of a meta run `reachability` (γ) and `norm`
        (‖v_meta‖).

    Raises:
        UserError: a score is not finite.
        SystemExit: an image does not decode; the rank that met it has said so.
    """
    columns: Columns = {}
    with one_line("facelt.evaluate", every_rank=True):
        for batch in each_batch(recogniser.embed, dataset, decoding, title):
            images = batch.images_G[batch.valid_G]
            for name, column_G in _read(recogniser, readings, batch.output).items():
                values = column_G.cpu().numpy()[batch.valid_G]
                columns.setdefault(name, np.empty(len(dataset), values.dtype))[images] = values
    for name, column in columns.items():
        if not np.isfinite(column).all():
            first = int(np.argmin(np.isfinite(column)))
            raise UserError(f"{title}: {name} of image {first} is not finite: the run has diverged; give another run")
    return columns


@torch.no_grad()
def _read(recogniser: Recogniser, readings: dict[str, Reading], output: Recognised) -> dict[str, Tensor]:
    """The columns of one batch, G each, on all ranks."""
    pairs = zip(recogniser.embeddings, output.features, strict=True)
    v = {name: collectives.gather(rows_BD.contiguous()) for name, rows_BD in pairs}
    columns: dict[str, Tensor] = {}
    for name, reading in readings.items():
        best = reading.prototypes.best(reading.query(v))
        columns |= {f"{name}.class": best.classes_G, f"{name}.score": best.scores_G}
        columns[f"{name}.probability"] = best.probabilities_G
    if "meta" in v:
        columns["reachability"] = collectives.gather(output.columns["reachability"].contiguous())
        columns["norm"] = torch.linalg.vector_norm(v["meta"], dim=1)
    return columns
