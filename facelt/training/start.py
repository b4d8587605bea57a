"""What a stage starts from: its own checkpoint, a plain stage, or nothing; and what is refused before it starts."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facelt.config import STAGES, FaceltConfig, StageName, ValidationConfig
from facelt.errors import UserError
from facelt.head.classifier import CLASSIFIER_ROWS, fold
from facelt.head.few_shot import FewShotHead
from facelt.head.heads import Head, MetaHead, PlainHead
from facelt.head.kernels.choice import serve
from facelt.head.memory import CentroidMemory
from facelt.head.prototype_head import PrototypeHead
from facelt.images.feed import make_sampler
from facelt.images.sampling import local
from facelt.network.backbone import switch
from facelt.network.embedder import Embedder
from facelt.network.weights import loading
from facelt.parallel import collectives, group
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState, StageSource
from facelt.training import filling
from facelt.training.engine import Engine
from facelt.training.optimizer import split
from facelt.training.run import Run

# What a run keeps from its first step to its last, beside the shapes below.
PIXEL_KNOBS = ("pixel_mean", "pixel_std")
SAME = ("image_size", "resize", "embedding_size", *PIXEL_KNOBS)
# … and unless --allow-change names it.
ALLOWABLE = ("data", "seed", "batch", "sampler", "augment", "plain")
# What may change without a word: where things lie, how often they are said or saved, how fast the work is done.
_SILENT = {"data", "output", "log_every", "checkpoint_every", "checkpoint_minutes", "keep_last", "keep_every"}
_SILENT |= {"loader_threads", "preset", "stall_minutes", "ddp_timeout", "max_skipped", "max_loss_growth"}
_SILENT |= {"head.kernels", "deterministic", "max_unreadable", "telemetry.wandb"}
_SILENT |= {f"validation.{name}" for name in ValidationConfig.model_fields}
_SILENT |= {f"backbone.{name}" for name in ("init", "init_channels", "compile", "channels_last", "checkpointing")}
_SILENT |= {f"ds.{name}" for name in ("steps_per_print", "wall_clock_breakdown", "dump_state")}
# What of the backbone's configuration decides its tensors.
SHAPE = ("name", "timm", "width", "stem", "neck", "meta_neck")
# … what of the plain head's, and what of the meta head's.
PLAIN_HEAD_SHAPE = ("classifier", "learn_scales", "few_shot")
HEAD_SHAPE = ("attention", "attention_on", "memory", "retrieval", "selector", "centroid_update")


def check(run: Run, stage: StageName) -> None:
    """Refuse at the start what a stage, perhaps days later, could not do: batches that do not share out alike.

    Raises UserError for that, for keys of DeepSpeed's that are unknown or do nothing, and for attention without a map.
    """
    split(run.ds)
    if stage == "meta" and run.config.head.attention and not run.config.backbone.has_map:
        name = run.config.backbone.timm
        raise UserError(
            f"head.attention needs a map, and timm's {name} gives its pooled feature; set head.attention=false"
        )
    batch, parts = run.ds.get("train_batch_size"), run.ds.get("gradient_accumulation_steps", 1)
    if "train_micro_batch_size_per_gpu" in run.ds and isinstance(batch, int):
        micro = _count("train_micro_batch_size_per_gpu", run.ds["train_micro_batch_size_per_gpu"])
        parts = batch // (micro * run.partition.world_size) or 1
    batch, parts = _count("train_batch_size", batch), _count("gradient_accumulation_steps", parts)
    if batch % parts:
        raise UserError(f"train_batch_size {batch} is not made of {parts} equal micro-batches; change one of them")
    sampler = make_sampler(run.config.stage(stage), run.dataset, batch, run.config.seed)
    local(np.arange(batch // parts), run.partition.rank, run.partition.world_size, sampler.group)


def _count(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{key} is {value!r}; expected a whole number of images or steps; set it in the JSON")
    return value


def recover(run: Path, config: FaceltConfig, stages: Collection[StageName]) -> None:
    """Before anything is read of a run: its damaged checkpoints set aside, what killed writers left dropped.

    stages: those that will be trained. All ranks must call it, and no other process may write the run.
    Raises UserError where a plain stage would begin anew under a meta stage that started from it.
    """
    whole = {stage: checkpoint.recover(run, stage) for stage in STAGES}
    lost = group.share(checkpoint.was_damaged(run, "plain"))
    after = next((stage for stage in ("meta", "memory") if whole[stage] is not None), None)
    if "plain" in stages and lost and whole["plain"] is None and after is not None:
        raise UserError(
            f"{run / 'plain'}: no whole checkpoint is left, and stage {after} goes on from it: give --stage {after} to "
            "finish that, or another --output"
        )
    for stage in STAGES:
        group.on_rank_0(checkpoint.tidy, run / stage, config)


def find_start(run: Run, stage: StageName, start_from: str | None) -> Path | None:
    """The plain stage that a stage starts from: this run's, else that of --start-from. None: from nothing."""
    source = None if stage == "plain" else _own_plain(run)
    if source is not None and run.config.validation.from_best:
        return checkpoint.find(source)  # an older one than the newest may be damaged
    return _given_start(start_from) if source is None and start_from is not None else source


def _own_plain(run: Run) -> Path | None:
    """The checkpoint of this run's stage plain that another stage starts from: the newest, or as asked the best."""
    best = group.share(checkpoint.best(run.folder, "plain")) if run.config.validation.from_best else None
    return group.share(checkpoint.latest(run.folder, "plain")) if best is None else best.folder


def _given_start(start_from: str) -> Path:
    """What --start-from names: of a run its stage plain, the newest or, behind RUN/best, the best of it."""
    path = Path(start_from)
    if path.name == checkpoint.BEST and (path.parent / "plain").is_dir():
        return checkpoint.find(path.parent / "plain" / checkpoint.BEST)
    return checkpoint.newest_whole(path, "plain") or checkpoint.find(path)


def take_pixels(config: FaceltConfig, run: Path, start_from: str | None) -> FaceltConfig:
    """The configuration with the pixels of what the run resumes or starts from, where it was told no others.

    Raises UserError where backbone.init, from which it would start, is not the network of the configuration.
    """
    own = group.share(next((c for stage in reversed(STAGES) if (c := checkpoint.latest(run, stage))), None))
    source = own or (_given_start(start_from) if start_from is not None else None)
    if source is not None:
        before = checkpoint.read_state(source).config
        found = {name: getattr(before, name) for name in PIXEL_KNOBS}
    elif config.backbone.init is not None:
        found = loading.pixels(config.backbone)
    else:
        return config
    taken = {name: pixels for name, pixels in found.items() if name not in config.model_fields_set}
    changed = {name: pixels for name, pixels in taken.items() if pixels != getattr(config, name)}
    for name, pixels in changed.items():
        group.say(f"{name} {list(pixels)}, as in {source or config.backbone.init}")
    return config.model_copy(update=changed)


def check_same_run(run: Run, folder: Path) -> CheckpointState:
    """The state of a checkpoint, if this run resumes it with the same images in the same order, in the same network.

    What else differs is said, a line each. All ranks must call it.
    """
    state = checkpoint.read_state(folder)
    before, now = state.config, run.config
    pairs = {name: (getattr(before, name), getattr(now, name)) for name in SAME}
    pairs |= {f"backbone.{n}": (getattr(before.backbone, n), getattr(now.backbone, n)) for n in SHAPE}
    pairs |= {f"head.{n}": (getattr(before.head, n), getattr(now.head, n)) for n in HEAD_SHAPE}
    pairs |= {f"plain_head.{n}": (getattr(before.plain_head, n), getattr(now.plain_head, n)) for n in PLAIN_HEAD_SHAPE}
    for name, (was, given) in pairs.items():
        if was != given:
            raise UserError(f"{folder} was trained with {name} {was}, given {given}; keep it, or another --output")
    _check_allowed(run, folder, state)
    for line in changes(run, state):
        group.say(f"stage {state.stage}: {line}")
    return state


def _check_allowed(run: Run, folder: Path, state: CheckpointState) -> None:
    """Refuse what changes which images are seen, or from what a meta stage started, unless it was allowed."""
    if state.num_classes != run.partition.num_classes:
        raise UserError(
            f"{folder}: trained on {state.num_classes} classes, the data has {run.partition.num_classes}; "
            "give the data it was trained on, or another --output"
        )
    before, now = state.config.stage(state.stage), run.config.stage(state.stage)
    pairs = [
        ("seed", "seed", state.config.seed, run.config.seed),
        ("batch", "train_batch_size", state.global_batch, run.global_batch),
        ("sampler", f"{state.stage}.sampler", before.sampler, now.sampler),
    ]
    if "class_aware" in (before.sampler, now.sampler):
        name = f"{state.stage}.images_per_class"
        pairs.append(("sampler", name, before.images_per_class, now.images_per_class))
        name = f"{state.stage}.class_aware_from"
        pairs.append(("sampler", name, before.class_aware_from, now.class_aware_from))
    for name in type(run.config.augment).model_fields:
        was, given = (getattr(config.augment, name) for config in (state.config, run.config))
        pairs.append(("augment", f"augment.{name}", was, given))
    for key, name, was, given in pairs:
        if was != given and key not in run.allowed:
            raise UserError(
                f"{folder} was trained with {name} {was}, given {given}; keep it, give --allow-change {key}, "
                "or another --output"
            )
    if state.data is not None and "data" not in run.allowed and (other := state.data.differences(run.fingerprint)):
        raise UserError(
            f"{folder} was trained on another set than {run.dataset.folder} ({other}; a set mended by verify --repair "
            "is another one): give the one it was trained on, --allow-change data, or another --output"
        )
    plain = _own_plain(run) if state.stage != "plain" else None
    if state.source is None or plain is None or "plain" in run.allowed:
        return
    if source_of(plain) != state.source:
        raise UserError(
            f"{folder} started from step {state.source.step} of stage plain, which has moved on to {plain.name}: "
            f"move {folder.parent} away to train it anew, or give --allow-change plain to finish it as it is"
        )


def source_of(folder: Path) -> StageSource | None:
    """What is remembered of the plain checkpoint that a meta stage starts from."""
    state = checkpoint.read_state(folder)
    model = state.files.get(checkpoint.MODEL)
    return None if model is None else StageSource(step=state.step, model=model.xxh3)


def changes(run: Run, state: CheckpointState) -> list[str]:
    """What of the configuration differs from a checkpoint's, "name was old, is now new"; other stages aside."""
    heads = {"plain": ("plain_head.",), "meta": ("head.",), "memory": ("plain_head.", "memory_head.")}
    others = {f"{stage}." for stage in STAGES} | {head for every in heads.values() for head in every}
    aside = tuple(others - {f"{state.stage}.", *heads[state.stage]})
    was = _flat(state.config.model_dump()) | _flat({"ds": state.ds or run.ds})
    now = _flat(run.config.model_dump()) | _flat({"ds": run.ds})
    names = [name for name in (*was, *(n for n in now if n not in was)) if not name.startswith(aside)]
    pairs = [(name, was.get(name), now.get(name)) for name in names if name not in _SILENT]
    return [f"{name} was {old}, is now {new}" for name, old, new in pairs if old != new]


def _flat(block: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested block as dotted names; lists for tuples, as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in block.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def resume(run: Run, folder: Path, state: CheckpointState) -> Engine:
    """Network, head and optimizers of a stage as a checkpoint left them."""
    embedder, head = _build(run, state.stage)
    try:
        embedder.load_state_dict(group.together(checkpoint.read_weights, folder))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its weights are not this network's ({reason}); give another --output") from None
    engine = _engine(run, state.stage, embedder, head)
    engine.load_replicated_moments(group.together(checkpoint.read_moments, folder))
    engine.load_sharded_rows(group.together(checkpoint.read_rows, folder, run.partition))
    engine.load_scalars(state.scalars)
    return engine


def begin(run: Run, stage: StageName, source: Path | None) -> Engine:
    """Network, head and optimizers as a stage starts: from a plain stage; without one, random or from --init."""
    embedder, head = _build(run, stage)
    if source is not None:
        _check_source(run, stage, source)
    for name in ("restart", "learn_scales"):
        if stage == "plain" and source is None and getattr(run.config.plain_head, name):
            raise UserError(f"plain_head.{name} needs a stage plain to take what stays from; give --start-from RUN")
    if source is None and run.config.stage(stage).freeze_network and not run.config.backbone.init:
        raise UserError(f"{stage}.freeze_network needs a stage plain to take the network from; give --start-from RUN")
    from_means = stage == "plain" and run.config.plain_head.classifier_start == "means"
    if from_means and not (run.config.plain_head.restart if source is not None else run.config.backbone.init):
        raise UserError(
            'plain_head.classifier_start "means" needs a network that was trained: give --init FILE, or --start-from '
            "RUN with plain_head.restart=true"
        )
    if stage != "plain" and source is None:
        raise UserError(f"--stage {stage}: the run has no plain stage; train it first, or give --start-from RUN")
    if isinstance(head, MetaHead):
        assert source is not None
        rows = fold(group.together(checkpoint.read_rows, source, run.partition, CLASSIFIER_ROWS))
        _adopt(embedder, source)
        _start_meta_head(run, embedder, head, rows)
    elif source is not None:
        _adopt(embedder, source)
        if stage != "plain" or not run.config.plain_head.restart:
            rows = fold(group.together(checkpoint.read_rows, source, run.partition, CLASSIFIER_ROWS))
            names = {f"classifier.{name}" for name, _ in head.classifier.named_parameters()} - {"classifier.factor"}
            head.load_state_dict({name: rows[name] for name in names}, strict=False)
        if isinstance(head, PrototypeHead):
            filling.fill_prototypes(run, embedder, head, ends=not run.config.memory.epochs)
    elif run.config.backbone.init:
        group.say(group.together(loading.load, embedder, run.config))
    if from_means:
        filling.fill_classifier(run, embedder, head)
    return _engine(run, stage, embedder, head)


def _check_source(run: Run, stage: StageName, source: Path) -> None:
    """Refuse a start from what is no plain stage, or saw other pixels than this stage will."""
    state = checkpoint.read_state(source)
    if state.stage != "plain":
        raise UserError(f"{source} is of stage {state.stage}; expected a plain stage to start {stage} from")
    for name in PIXEL_KNOBS:
        was, given = getattr(state.config, name), getattr(run.config, name)
        if was != given:
            raise UserError(f"{source} was trained with {name} {was}, given {given}; set {name} as there")


def _build(run: Run, stage: StageName) -> tuple[Embedder, Head]:
    torch.manual_seed(run.config.seed)
    embedder = Embedder(run.config, meta=stage == "meta", memory=stage == "memory").to(run.device)
    backbone = run.config.backbone
    switch(embedder.backbone, backbone.compile, backbone.channels_last, backbone.checkpointing)
    head = _head(run, stage).to(run.device)
    serve(head, run.config.head.kernels, run.device, run.global_batch // run.ds.get("gradient_accumulation_steps", 1))
    return embedder, head


def _head(run: Run, stage: StageName) -> Head:
    if stage == "meta":
        return MetaHead(run.config, run.partition)
    counts_K = torch.from_numpy(np.bincount(run.dataset.labels, minlength=run.partition.num_classes))
    if stage == "memory":
        return PrototypeHead(run.config, run.partition, counts_K)
    return (FewShotHead if run.config.plain_head.few_shot else PlainHead)(run.config, run.partition, counts_K)


def _engine(run: Run, stage: StageName, embedder: Embedder, head: Head) -> Engine:
    knobs = run.config.stage(stage)
    if knobs.freeze_backbone or knobs.freeze_network:
        embedder.backbone.requires_grad_(False)
    if knobs.freeze_network and embedder.generator is not None:
        embedder.requires_grad_(False)
        embedder.generator.requires_grad_(True)
        return Engine(embedder, head, run.ds)
    return Engine(embedder, head, run.ds, network_lr=0 if knobs.freeze_network else 1)


def _adopt(embedder: Embedder, source: Path) -> None:
    """Load a plain stage's network into this one; what a later stage adds keeps its start."""
    weights = group.together(checkpoint.read_weights, source)
    own, added = embedder.state_dict(), embedder.added_names()
    for name, tensor in own.items():
        if name not in added and (name not in weights or weights[name].shape != tensor.shape):
            raise UserError(f"{source}: its {name} does not fit this network; give the same backbone configuration")
    embedder.load_state_dict(own | {name: weights[name] for name in own if name not in added})


def _start_meta_head(run: Run, embedder: Embedder, head: MetaHead, rows: dict[str, Tensor]) -> None:
    """Memory from class means; hallucinator and classifier as the knobs say. rows: of the plain stage's classifier."""
    filling.fill_memory(run, embedder, head.memory)
    if head.memory.retrieval == "hallucinator":
        start_hallucinator(head.memory, rows, run.config)
    if run.config.head.classifier_start == "centroids":
        head.classifier.weight.data.copy_(head.memory.centroids)


@torch.no_grad()
def start_hallucinator(memory: CentroidMemory, rows: dict[str, Tensor], config: FaceltConfig) -> None:
    """T_hal := the plain stage's linear classifier; a cosine one scores a feature of typical norm as it did before."""
    weight_kD = rows["classifier.weight"].to(memory.centroids.device)
    if "classifier.bias" in rows:
        memory.hallucinator_bias.copy_(rows["classifier.bias"])
    else:
        norms = memory.centroids.norm(dim=1).sum()
        typical = collectives.all_sum(norms) / memory.partition.num_classes
        weight_kD = normalize(weight_kD) * (config.plain_head.scale / typical)
    memory.hallucinator_weight.copy_(weight_kD)
