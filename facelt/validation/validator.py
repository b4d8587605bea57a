"""A network and its head measured on the validation sets, all ranks together; both are left as they were.

B: images of this rank in a batch, N: images of a set, D: embedding size, S: side of the images.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facelt.config import FaceltConfig, StageName
from facelt.errors import UserError, one_line
from facelt.features.recognisers import Recognised, Recogniser, through_meta_head
from facelt.head.classifier import fold
from facelt.head.heads import Head, MetaHead
from facelt.head.prototype_head import PrototypeHead
from facelt.images.dali import Dataset
from facelt.images.one_pass import each_batch
from facelt.network.embedder import Embedder
from facelt.open_world.readings.from_run import by_rows, needed_embeddings
from facelt.open_world.readings.from_training_set import by_memory
from facelt.open_world.readings.reading import Knobs, Reading, read_set
from facelt.open_world.sets import ImageBatches
from facelt.parallel import collectives, group, heartbeat
from facelt.validation import figures
from facelt.validation.sets import KnownSet, PairSet, StrangerSet, ValidationSet, open_sets
from recordio_tools.dataset import RecordDataset

COMMAND = "facelt.train"
BATCH = 64  # images of a rank


@dataclass(frozen=True)
class Validator:
    """Measures a run on its validation sets: the `Measure` of a training."""

    sets: list[ValidationSet]
    config: FaceltConfig
    device: torch.device

    @classmethod
    def of(cls, config: FaceltConfig, train: RecordDataset, stages: tuple[StageName, ...], device: torch.device):
        """That of a configuration; None where it names no set. All ranks must call it.

        stages: those that are to be trained. Raises UserError for a set that is not what it is given for, and for a
        figure to keep the best by that no stage has.
        """
        knobs = config.validation
        sets = group.together(open_sets, knobs, train)
        if not sets:
            if knobs != type(knobs)():
                group.say("validation: no set is given, so nothing is validated and no best checkpoint is kept")
            return None
        found = cls(sets, config, device)
        if knobs.keep_best is not None:
            found._check_best(knobs.keep_best, stages)
        return found

    def _check_best(self, figure: str, stages: tuple[StageName, ...]) -> None:
        every = {name: None for stage in stages for name in self.figures(stage)}
        if figure not in every:
            raise UserError(f"validation.keep_best is {figure}; expected one of: {', '.join(every)}")
        for stage in stages:
            if figure not in self.figures(stage):
                main = self.config.validation.main_figure(stage)
                group.say(f"stage {stage} has no {figure}: its best is told by {main}")

    @property
    def images(self) -> int:
        """How many images one validation passes through the network."""
        return sum(one.passes for one in self.sets)

    def figures(self, stage: StageName) -> list[str]:
        """The names of what is measured in a stage."""
        told = {(one.name, figure) for one in self.sets for figure in one.figures}
        return [name for name, of in self.config.validation.figures(stage).items() if of in told]

    @torch.no_grad()
    def __call__(self, embedder: Embedder, head: Head) -> dict[str, float]:
        """The figures, by name, on all ranks alike, which must all call it.

        Raises UserError where a feature is not finite. SystemExit: an image does not decode; its rank has said so.
        """
        with evaluating(embedder, head):
            recogniser = make_recogniser(embedder, head, self.config)
            found: dict[str, float] = {}
            for one in self.sets:
                part = self._measure(one, recogniser, head)
                found |= {f"{one.name}.{name}": value for name, value in part.items()}
        return found

    def _measure(self, one: ValidationSet, recogniser: Recogniser, head: Head) -> dict[str, float]:
        if isinstance(one, KnownSet):
            return self._named(one, recogniser, head)
        mirrored = isinstance(one, PairSet)
        features = self._features(one.images, recogniser, f"validation: {one.name}", mirrored)
        found: dict[str, float] = {}

        def work() -> None:
            heartbeat.mark("validation")
            for feature, rows_ND in features.items():
                of = "" if feature == "direct" else f"{feature}."
                found.update({f"{of}{name}": value for name, value in of_features(one, rows_ND).items()})

        group.on_rank_0(work)
        return group.share(found)

    def _named(self, one: KnownSet, recogniser: Recogniser, head: Head) -> dict[str, float]:
        batches = ImageBatches(recogniser, _batch(one.passes), self.device, COMMAND)
        read = read_set(batches, readings(head, self.config), one.given, f"validation: {one.name}")
        labels_N, found = one.dataset.labels, {}
        for name in ("classifier", "memory"):
            if f"{name}.class" in read:
                shares = figures.of_classes(read[f"{name}.class"], labels_N, one.members)
                found |= {f"{name}.{share}": value for share, value in shares.items()}
        return found

    def _features(
        self, images: Dataset, recogniser: Recogniser, title: str, mirrored: bool
    ) -> dict[str, NDArray[np.float32]]:
        """The direct features and, in stage meta, v_meta, N x D each, on all ranks.

        mirrored: those of an image and of its mirror image are summed, as ArcFace's verification has it.
        """
        wanted = [name for name in ("direct", "meta") if name in recogniser.embeddings]

        def embed(images_B3SS: Tensor) -> list[Tensor]:
            features = _wanted(recogniser, images_B3SS, wanted)
            if mirrored:
                both = zip(features, _wanted(recogniser, images_B3SS.flip(3), wanted), strict=True)
                features = [image + mirror for image, mirror in both]
            return features

        decoding = recogniser.decoding(_batch(len(images)), self.device, self.config.loader_threads)
        rows = np.empty((len(wanted), len(images), self.config.embedding_size), np.float32)
        with one_line(COMMAND, every_rank=True):
            for batch in each_batch(embed, images, decoding, title):
                numbers = batch.images_G[batch.valid_G]
                for at, part_BD in enumerate(batch.output):
                    rows[at, numbers] = collectives.gather(part_BD.contiguous()).cpu().numpy()[batch.valid_G]
        if not np.isfinite(rows).all():
            raise UserError(f"{title}: features are not finite; give the same command with a lower optimizer.params.lr")
        return dict(zip(wanted, rows, strict=True))


def of_features(one: PairSet | StrangerSet, rows_ND: NDArray) -> dict[str, float]:
    """The figures of a set by its features."""
    if isinstance(one, StrangerSet):
        return figures.of_strangers(rows_ND, one.images.labels, f"validation: {one.name}")
    return figures.of_pairs(rows_ND, one.same_P)


def make_recogniser(embedder: Embedder, head: Head, config: FaceltConfig) -> Recogniser:
    """What a network in training, in evaluation mode, makes of images, as `from_checkpoint` has it of a saved one."""
    meta = isinstance(head, MetaHead)
    embeddings = needed_embeddings(meta)

    def embed_direct(images_B3SS: Tensor) -> Recognised:
        return Recognised([embedder(images_B3SS).direct_BD], {})

    embed: Callable[[Tensor], Recognised] = embed_direct
    if isinstance(head, MetaHead):
        embed = through_meta_head(embedder, head, embeddings)
    pixels = {"mean": config.pixel_mean, "std": config.pixel_std, "resize": config.resize}
    return Recogniser(embed, config.image_size, {}, embeddings, **pixels)


def readings(head: Head, config: FaceltConfig) -> dict[str, Reading]:
    """How a head in training names an image: by its classifier and, where it has one, by the memory as it stands."""
    meta = isinstance(head, MetaHead)
    rows = fold({name: rows.detach() for name, rows in head.classifier.named_parameters(prefix="classifier")})
    weight_kD, bias_k = rows["classifier.weight"], rows.get("classifier.bias")
    found: dict[str, Reading] = {"classifier": by_rows(config, meta, head.partition, weight_kD, bias_k)}
    if isinstance(head, MetaHead | PrototypeHead):
        found["memory"] = by_memory(head.memory.centroids.detach(), Knobs.temperature, head.partition)
    return found


@contextmanager
def evaluating(*parts: nn.Module) -> Iterator[None]:
    """Within, modules are in evaluation mode; after it each of theirs is in the mode that it was in."""
    modes = {module: module.training for part in parts for module in part.modules()}
    try:
        for part in parts:
            part.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _wanted(recogniser: Recogniser, images_B3SS: Tensor, names: list[str]) -> list[Tensor]:
    features = dict(zip(recogniser.embeddings, recogniser.embed(images_B3SS).features, strict=True))
    return [features[name] for name in names]


def _batch(images: int) -> int:
    return min(BATCH, max(1, images // group.world_size()))
