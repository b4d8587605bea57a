"""What is made of the whole training set in one pass, as a stage starts or ends: memories, and classifiers' rows.

B: images of this rank, G: images of all ranks, D: embedding size, S: images of a sample, k: classes of this rank.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from facelt.config import MetaHeadConfig
from facelt.errors import one_line
from facelt.head.few_shot import FewShotHead
from facelt.head.heads import Head
from facelt.head.memory import CentroidMemory
from facelt.head.prototype_head import PrototypeHead
from facelt.head.whitening import WithinClasses, whitening
from facelt.images.dali import Decoding
from facelt.images.one_pass import each_batch
from facelt.network.embedder import Embedder
from facelt.parallel import collectives, group
from facelt.training import calibration
from facelt.training.class_means import ClassMeans
from facelt.training.run import Run

FILL_BATCH = 64  # images of a rank in a pass over the set


@torch.no_grad()
def fill_memory(run: Run, embedder: Embedder, memory: CentroidMemory) -> None:
    """Centroids := per-class means of the direct feature over the whole set, as it is, in evaluation mode."""
    means = ClassMeans(memory.partition, run.config.embedding_size, memory.centroids)
    for _, direct_BD, labels_G, valid_G in _direct_features(run, embedder, "memory from class means"):
        means.add(direct_BD, labels_G, valid_G)
    memory.centroids.copy_(means.result())


@torch.no_grad()
def fill_classifier(run: Run, embedder: Embedder, head: Head) -> None:
    """The classifier's rows := per-class means of the unit direct features over the whole set."""
    means = ClassMeans(head.partition, run.config.embedding_size, head.classifier.weight)
    for _, direct_BD, labels_G, valid_G in _direct_features(run, embedder, "classifier from class means"):
        means.add(normalize(direct_BD), labels_G, valid_G)
    head.classifier.weight.copy_(means.result())


@torch.no_grad()
def fill_few_shot(run: Run, embedder: Embedder, head: FewShotHead) -> None:
    """The few-shot classes' rows := what the generator makes of their images, over the whole set as it is."""
    assert embedder.generator is not None
    units = ClassMeans(head.partition, run.config.embedding_size, head.classifier.weight)
    reads = ClassMeans(head.partition, run.config.embedding_size, head.classifier.weight)
    for _, direct_BD, labels_G, valid_G in _direct_features(run, embedder, "rows of few-shot classes"):
        units.add(normalize(direct_BD), labels_G, valid_G)
        query_GD = collectives.gather(embedder.generator(direct_BD).query_BD)
        reads.add(head.read(query_GD), labels_G, valid_G)
    head.put_rows(embedder.generator, units.result(), reads.result())


@torch.no_grad()
def fill_prototypes(run: Run, embedder: Embedder, head: PrototypeHead, ends: bool) -> None:
    """Centroids := per-class means of the unit direct features over the whole set; what they are read with.

    ends: whether the stage does, and features are whitened: network, classifier and memory by the same map.
    """
    means = ClassMeans(head.partition, run.config.embedding_size, head.memory.centroids)
    within = WithinClasses(run.config.embedding_size, run.device)
    sample = np.random.default_rng(run.config.seed).permutation(len(run.dataset))[: calibration.SAMPLE]
    kept: list[tuple[Tensor, Tensor]] = []
    for images_G, direct_BD, labels_G, valid_G in _direct_features(run, embedder, "memory from unit features"):
        unit_BD = normalize(direct_BD)
        within.add(unit_BD[collectives.own_rows(valid_G)])
        unit_GD = means.add(unit_BD, labels_G, valid_G)
        taken_G = valid_G & torch.from_numpy(np.isin(images_G, sample)).to(run.device)
        kept.append((unit_GD[taken_G], labels_G[taken_G]))
    head.memory.centroids.copy_(means.result())
    rows_SD, labels_S = (torch.cat(parts) for parts in zip(*kept, strict=True))
    if ends and head.knobs.whitening and head.classifier.kind == "linear":
        covariance_DD = within.result(means.result(), means.counts_k)
        map_DD = group.share(whitening(covariance_DD, head.knobs.whitening, head.knobs.whitening_ridge).cpu())
        rows_SD = _whiten(embedder, head, map_DD.to(run.device), rows_SD)
    found = calibration.calibrate(rows_SD, labels_S, head.memory.centroids, means.counts_k, head.partition)
    head.calibrated = {"temperature": found.temperature, "threshold": found.threshold}


def _whiten(embedder: Embedder, head: PrototypeHead, map_DD: Tensor, rows_SD: Tensor) -> Tensor:
    """Multiply features and memory by a symmetric map, and the classifier so that it scores as before.

    rows_SD: other features. Returns them multiplied.
    """
    assert embedder.projection is not None
    embedder.projection.copy_(map_DD @ embedder.projection.double())
    head.memory.centroids.copy_(head.memory.centroids.double() @ map_DD)
    weight_kD = head.classifier.weight
    weight_kD.copy_(torch.linalg.solve(map_DD, weight_kD.double().T).T)
    return (rows_SD.double() @ map_DD).to(rows_SD.dtype)


def _direct_features(run: Run, embedder: Embedder, title: str) -> Iterator[tuple[NDArray, Tensor, Tensor, Tensor]]:
    """Over the whole set as it is, in evaluation mode: (images_G, direct_BD, labels_G, valid_G) of each batch.

    Images that do not decode are not valid.
    """
    labels = torch.from_numpy(run.dataset.labels)
    batch = min(FILL_BATCH, max(1, len(run.dataset) // group.world_size()))
    decoding = Decoding.of(run.config, batch, run.device)
    modes = {module: module.training for module in embedder.modules()}
    with one_line("facelt.train", every_rank=True):
        for part in each_batch(embedder.eval(), run.dataset, decoding, title, run.quarantine):
            valid_G = torch.from_numpy(part.valid_G).to(run.device)
            yield part.images_G, part.output.direct_BD, labels[part.images_G].to(run.device), valid_G
    run.quarantine.settle()
    for module, mode in modes.items():
        module.training = mode


def refreshes(knobs: MetaHeadConfig, step: int) -> bool:
    """Whether the centroids are made anew before a step."""
    return knobs.centroid_update == "refresh" and step > 0 and step % knobs.refresh_every == 0
