"""What a stage starts from, and the images it is fed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from facelt import checkpoint, comms
from facelt.backbone import load_pretrained
from facelt.config import FaceltConfig, StageConfig
from facelt.engine import Engine
from facelt.inference import each_batch
from facelt.memory import ClassMeans
from facelt.mistakes import one_line
from facelt.model import Embedder, MetaHead, PlainHead
from facelt.pipeline import DRAWS, ImagePipeline
from facelt.sampling import ClassAwareSampler, UniformSampler, augmentation_seeds, local, uniforms
from recordio_tools.dataset import RecordDataset


def initialise(
    stage: str,
    embedder: Embedder,
    head: PlainHead | MetaHead,
    run: Path,
    start_from: str | None,
    dataset: RecordDataset,
    config: FaceltConfig,
    device: torch.device,
) -> None:
    """The weights that a stage starts from: random or --init, another run's plain stage, or this run's for meta."""
    source = checkpoint.latest(run, "plain") if stage == "meta" and start_from is None else None
    if start_from is not None:
        source = checkpoint.find(start_from)
    if source is None:
        if stage == "meta":
            raise ValueError(f"--stage meta: {run} has no plain stage; train it first, or give --start-from RUN")
        if config.backbone.init:
            load_pretrained(embedder.backbone, config.backbone.init)
        return
    if (kind := checkpoint.read_state(source)["stage"]) != "plain":
        raise ValueError(f"{source} is of stage {kind}; expected a plain stage to start {stage} from")
    partition = head.classifier.partition
    rows = checkpoint.read_rows(source, partition, with_moments=False)
    adopt(embedder, checkpoint.read_weights(source), source)
    if stage == "plain":
        head.load_state_dict({name: rows[name] for name in head.state_dict()})
        return
    memory = head.memory
    means = ClassMeans(partition, config.embedding_size, memory.centroids)
    labels = torch.from_numpy(dataset.labels)
    micro = min(64, max(1, len(dataset) // comms.world_size()))
    title = "memory from class means"
    with one_line("facelt.train", every_rank=True):
        threads = config.loader_threads
        for batch in each_batch(embedder.eval(), dataset, config.image_size, micro, device, threads, title):
            valid_G = torch.from_numpy(batch.valid_G).to(device)
            means.add(batch.output[0], labels[batch.images_G].to(device), valid_G)
    with torch.no_grad():
        memory.centroids.copy_(means.result())
        memory.hallucinator_weight.copy_(rows["classifier.weight"])
        memory.hallucinator_bias.copy_(rows["classifier.bias"])


def adopt(embedder: Embedder, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load a plain stage's network into this one; what a meta stage adds keeps its start."""
    new = {name for name in embedder.state_dict() if name.startswith(("attention.", "selector."))}
    own = embedder.state_dict()
    for name, tensor in own.items():
        if name not in new and (name not in weights or weights[name].shape != tensor.shape):
            raise ValueError(f"{source}: its {name} does not fit this network; give the same backbone configuration")
    embedder.load_state_dict(own | {name: weights[name] for name in own if name not in new})


def check_same_order(state: dict[str, Any], engine: Engine, config: FaceltConfig, folder: Path) -> None:
    """A run goes on with the images it had not seen only under the same seed and global batch."""
    for name, now in (("global_batch", engine.global_batch), ("seed", config.seed)):
        before = state[name] if name in state else state["config"][name]
        if before != now:
            raise ValueError(f"{folder} was trained with {name} {before}, given {now}; keep it, or another --output")


def make_sampler(
    knobs: StageConfig, dataset: RecordDataset, batch: int, seed: int
) -> UniformSampler | ClassAwareSampler:
    if knobs.sampler == "uniform":
        return UniformSampler(dataset.labels, batch, seed)
    return ClassAwareSampler(dataset.labels, batch, seed, knobs.images_per_class, dataset.num_classes)


def make_pipeline(
    dataset: RecordDataset,
    sampler: UniformSampler | ClassAwareSampler,
    engine: Engine,
    config: FaceltConfig,
    first_step: int,
    steps: int,
    device: torch.device,
) -> ImagePipeline:
    """Images of this rank, micro-batch after micro-batch, from a step on."""
    parts, rank, ranks = engine.accumulation, comms.rank(), comms.world_size()

    def share(batch: np.ndarray, micro_step: int) -> np.ndarray:
        return local(batch.reshape(parts, -1)[micro_step % parts], rank, ranks, sampler.group)

    def draws(micro_step: int) -> np.ndarray:
        seeds = augmentation_seeds(config.seed, micro_step // parts, engine.global_batch)
        return uniforms(share(seeds, micro_step), DRAWS)

    return ImagePipeline(
        dataset,
        indices_for=lambda m: share(sampler.indices(m // parts), m),
        draws_for=draws,
        batch_size=engine.micro_batch,
        image_size=config.image_size,
        augment=config.augment,
        device="gpu" if device.type == "cuda" else "cpu",
        device_id=device.index or 0,
        threads=config.loader_threads,
        start_step=first_step * parts,
        num_steps=(steps - first_step) * parts,
    )
