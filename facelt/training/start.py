"""What a stage starts from, and the images it is fed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from facelt.config import FaceltConfig, HeadConfig, StageConfig
from facelt.errors import one_line
from facelt.head.heads import MetaHead, PlainHead
from facelt.head.memory import CentroidMemory
from facelt.images.dali import DRAWS, ImagePipeline
from facelt.images.one_pass import each_batch
from facelt.images.sampling import ClassAwareSampler, UniformSampler, augmentation_seeds, local, uniforms
from facelt.network.backbone import load_pretrained, switch
from facelt.network.embedder import Embedder
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.training import checkpoint
from facelt.training.class_means import ClassMeans
from facelt.training.engine import Engine
from recordio_tools.dataset import RecordDataset

# What of the backbone's configuration decides its tensors.
SHAPE = ("name", "width", "stem", "neck")
# … and what of the meta head's.
HEAD_SHAPE = ("attention", "retrieval", "selector", "centroid_update")


def check(name: str, dataset: RecordDataset, partition: Partition, ds: dict[str, Any], config: FaceltConfig) -> None:
    """Refuse at the start what a stage, perhaps days later, could not do: batches that do not share out alike."""
    batch, parts = ds.get("train_batch_size"), ds.get("gradient_accumulation_steps", 1)
    if "train_micro_batch_size_per_gpu" in ds and isinstance(batch, int):
        parts = batch // (ds["train_micro_batch_size_per_gpu"] * partition.world_size) or 1
    for key, value in (("train_batch_size", batch), ("gradient_accumulation_steps", parts)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} is {value!r}; expected a whole number of images or steps; set it in the JSON")
    if batch % parts:
        raise ValueError(f"train_batch_size {batch} is not made of {parts} equal micro-batches; change one of them")
    sampler = make_sampler(getattr(config, name), dataset, batch, config.seed)
    local(np.arange(batch // parts), partition.rank, partition.world_size, sampler.group)


def find_start(name: str, run: Path, start_from: str | None) -> Path | None:
    """The plain stage that a stage starts from: this run's for meta, else that of --start-from; None: from nothing."""
    source = checkpoint.latest(run, "plain") if name == "meta" else None
    if source is None and start_from is not None:
        source = checkpoint.latest(Path(start_from), "plain") or checkpoint.find(start_from)
    return group.share(source)


def make_engine(
    name: str,
    resumed: Path | None,
    source: Path | None,
    dataset: RecordDataset,
    partition: Partition,
    ds: dict[str, Any],
    config: FaceltConfig,
    device: torch.device,
) -> Engine:
    """Network, head and optimizers of a stage, as a checkpoint left them, or else as the stage starts from `source`."""
    torch.manual_seed(config.seed)
    embedder = Embedder(config, meta=name == "meta").to(device)
    b = config.backbone
    switch(embedder.backbone, b.compile, b.channels_last, b.checkpointing)
    head = (MetaHead if name == "meta" else PlainHead)(config, partition).to(device)
    if resumed:
        embedder.load_state_dict(group.together(checkpoint.read_weights, resumed))
    else:
        initialise(name, embedder, head, source, dataset, config, device)
    for parameter in embedder.backbone.parameters() if getattr(config, name).freeze_backbone else ():
        parameter.requires_grad_(False)
    engine = Engine(embedder, head, ds, config.head.memory_weight_decay)
    if resumed:
        engine.load_replicated_moments(group.together(checkpoint.read_moments, resumed))
        engine.load_sharded_rows(group.together(checkpoint.read_rows, resumed, partition))
        engine.load_scalars(checkpoint.read_state(resumed).get("scalars", {}))
    return engine


def initialise(
    stage: str,
    embedder: Embedder,
    head: PlainHead | MetaHead,
    source: Path | None,
    dataset: RecordDataset,
    config: FaceltConfig,
    device: torch.device,
) -> None:
    """The weights that a stage starts from: those of a plain stage; without one, random or of --init."""
    if source is None:
        if stage == "meta":
            raise ValueError("--stage meta: the run has no plain stage; train it first, or give --start-from RUN")
        if config.backbone.init:
            load_pretrained(embedder.backbone, config.backbone.init)
        return
    if (kind := checkpoint.read_state(source)["stage"]) != "plain":
        raise ValueError(f"{source} is of stage {kind}; expected a plain stage to start {stage} from")
    partition = head.classifier.partition
    rows = group.together(checkpoint.read_rows, source, partition, False)
    adopt(embedder, group.together(checkpoint.read_weights, source), source)
    if stage == "plain":
        head.load_state_dict({name: rows[name] for name in head.state_dict()})
        return
    fill_memory(embedder, head.memory, dataset, config, device)
    if head.memory.retrieval == "hallucinator":
        start_hallucinator(head.memory, rows, config)
    if config.head.classifier_start == "centroids":
        head.classifier.weight.data.copy_(head.memory.centroids)


@torch.no_grad()
def fill_memory(
    embedder: Embedder, memory: CentroidMemory, dataset: RecordDataset, config: FaceltConfig, device: torch.device
) -> None:
    """Centroids := per-class means of the direct feature over the whole set, as it is, in evaluation mode."""
    means = ClassMeans(memory.partition, config.embedding_size, memory.centroids)
    labels = torch.from_numpy(dataset.labels)
    micro = min(64, max(1, len(dataset) // group.world_size()))
    threads, title = config.loader_threads, "memory from class means"
    modes = {module: module.training for module in embedder.modules()}
    with one_line("facelt.train", every_rank=True):
        for batch in each_batch(embedder.eval(), dataset, config.image_size, micro, device, threads, title):
            valid_G = torch.from_numpy(batch.valid_G).to(device)
            means.add(batch.output.direct_BD, labels[batch.images_G].to(device), valid_G)
    for module, mode in modes.items():
        module.training = mode
    memory.centroids.copy_(means.result())


def refreshes(knobs: HeadConfig, step: int) -> bool:
    """Whether the centroids are made anew before a step."""
    return knobs.centroid_update == "refresh" and step > 0 and step % knobs.refresh_every == 0


@torch.no_grad()
def start_hallucinator(memory: CentroidMemory, rows: dict[str, torch.Tensor], config: FaceltConfig) -> None:
    """T_hal := the plain stage's linear classifier; a cosine one scores a feature of typical norm as it did before."""
    weight_kD = rows["classifier.weight"].to(memory.centroids.device)
    if "classifier.bias" in rows:
        memory.hallucinator_bias.copy_(rows["classifier.bias"])
    else:
        norms = memory.centroids.norm(dim=1).sum()
        typical = collectives.all_sum(norms) / memory.partition.num_classes
        weight_kD = torch.nn.functional.normalize(weight_kD) * (config.plain_head.scale / typical)
    memory.hallucinator_weight.copy_(weight_kD)


def adopt(embedder: Embedder, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load a plain stage's network into this one; what a meta stage adds keeps its start."""
    new = {name for name in embedder.state_dict() if name.startswith(("attention.", "selector.", "temperature."))}
    own = embedder.state_dict()
    for name, tensor in own.items():
        if name not in new and (name not in weights or weights[name].shape != tensor.shape):
            raise ValueError(f"{source}: its {name} does not fit this network; give the same backbone configuration")
    embedder.load_state_dict(own | {name: weights[name] for name in own if name not in new})


def check_same_run(folder: Path, ds: dict[str, Any], config: FaceltConfig) -> dict[str, Any]:
    """The state of a checkpoint, if this configuration goes on with the same images, in the same network."""
    state = checkpoint.read_state(folder)
    before = FaceltConfig.model_validate(state["config"]) if "config" in state else config
    pairs = {name: (getattr(before, name), getattr(config, name)) for name in ("seed", "image_size", "embedding_size")}
    pairs |= {f"backbone.{n}": (getattr(before.backbone, n), getattr(config.backbone, n)) for n in SHAPE}
    pairs |= {f"head.{n}": (getattr(before.head, n), getattr(config.head, n)) for n in HEAD_SHAPE}
    pairs["plain_head.classifier"] = (before.plain_head.classifier, config.plain_head.classifier)
    pairs["train_batch_size"] = (state.get("global_batch"), ds["train_batch_size"])
    for name, (was, now) in pairs.items():
        if was != now:
            raise ValueError(f"{folder} was trained with {name} {was}, given {now}; keep it, or another --output")
    return state


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
    parts, rank, ranks = engine.accumulation, group.rank(), group.world_size()

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
