"""Recognisers: what turns images into features. A trained run, or the bare pixels; ONNX files have their own module.

B: images, S: side of the images, D: size of a feature.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facelt.config import FACE_PIXELS, Pixel
from facelt.errors import UserError
from facelt.head.heads import MetaHead
from facelt.head.memory import CentroidMemory
from facelt.images.dali import Decoding
from facelt.network.embedder import Embedder
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


class Recognised(NamedTuple):
    """features: B x D, one for each embedding. columns: what else is known of an image, B each, by name."""

    features: list[Tensor]
    columns: dict[str, Tensor]


@dataclass(frozen=True)
class Recogniser:
    """embed: images B x 3 x S x S -> a feature for each of `embeddings`, and columns beside them.

    image_size: S. facts: what made the features, for meta.json. mean, std: the images are (x - mean) / std of RGB
    0 … 255. resize: see `dali.Frame`. width: of images that are not square, S high; None: S. foreign: whether it is
    someone else's, which may want other pixels than it is given.
    """

    embed: Callable[[Tensor], Recognised]
    image_size: int
    facts: dict[str, Any]
    embeddings: tuple[str, ...] = ("direct",)
    mean: Pixel = FACE_PIXELS["pixel_mean"]
    std: Pixel = FACE_PIXELS["pixel_std"]
    resize: int | None = None
    width: int | None = None
    foreign: bool = False

    def decoding(self, batch_size: int, device: torch.device, threads: int = 2) -> Decoding:
        """How it wants a set decoded. batch_size: images of a rank."""
        return Decoding(
            self.image_size,
            batch_size,
            device,
            threads,
            resize=self.resize,
            mean=self.mean,
            std=self.std,
            width=self.width,
        )


def from_checkpoint(
    folder: Path,
    embeddings: tuple[str, ...],
    device: torch.device,
    memory: str | None = None,
    exact: bool = False,
) -> Recogniser:
    """Embeddings of a trained network; the class memory stays sharded over the ranks, which must all call alike.

    Those of a meta run have a column `reachability`, γ of equation 3: the distance of the direct feature to the nearest
    centroid. Those of a memory run have `cosine`, the highest one to a centroid.

    Args:
        folder: a checkpoint, as `checkpoint.find` gives it.
        embeddings: of `meta_embedding.EMBEDDINGS`.
        device: of the network.
        memory: "mean" reads the mean of the memory for every image, a control; None reads it as trained.
        exact: its products are float32, whatever they were while it trained.

    Raises:
        UserError: it is of stage plain or memory and more than the direct feature is asked for; or it infuses no memory
            and its mean is asked for.
    """
    state = checkpoint.read_state(folder)
    meta = state.stage == "meta"
    if embeddings != ("direct",) and not meta:
        asked = " ".join(embeddings)
        raise UserError(
            f"--embedding {asked}: {folder} is of stage {state.stage}, which has only direct; give a meta run"
        )
    if meta and memory and not state.config.head.memory:
        raise UserError(f'--memory {memory}: {folder} was trained with "memory": false and reads none; leave it out')
    embedder = Embedder(state.config, meta, memory=state.stage == "memory")
    embedder.load_state_dict(group.together(checkpoint.read_weights, folder))
    embedder.to(device).eval().requires_grad_(False)
    facts = {"recogniser": "checkpoint", "checkpoint": str(folder), "step": state.step}
    facts |= {"memory": memory} if memory else {}
    config = state.config.model_copy(update={"products": "float32"}) if exact else state.config

    def embed_plain(images_B3SS: Tensor) -> Recognised:
        return Recognised([embedder(images_B3SS).direct_BD], {})

    recogniser = Recogniser(
        embed_plain,
        config.image_size,
        facts,
        embeddings,
        mean=config.pixel_mean,
        std=config.pixel_std,
        resize=config.resize,
    )
    with_memory = state.stage != "plain"
    if with_memory and embeddings == ("direct",) and not any(folder.glob("classes-*")):
        group.say(f"{folder} has no memory with it: features are written without what it says of them")
        with_memory = False
    if not with_memory:
        return recogniser
    partition = Partition(state.num_classes, group.rank(), group.world_size())
    if state.stage == "memory":
        prototypes = CentroidMemory(partition, config.embedding_size, retrieval="cosine")
        rows = group.together(checkpoint.read_rows, folder, partition, {"memory.centroids"})
        prototypes.load_state_dict({"centroids": rows["memory.centroids"]})
        return replace(recogniser, embed=_beside_prototypes(embedder, prototypes.to(device)))
    # Where nothing but γ is wanted of the memory, its mean is read: that costs no product.
    head = MetaHead(config, partition, "mean" if embeddings == ("direct",) else memory)
    head.load_state_dict(group.together(checkpoint.read_rows, folder, partition, head.state_dict().keys()))
    head.to(device).eval().requires_grad_(False)
    return replace(recogniser, embed=through_meta_head(embedder, head, embeddings))


def _beside_prototypes(embedder: Embedder, prototypes: CentroidMemory) -> Callable[[Tensor], Recognised]:
    """Direct features, and the highest cosine of each to a centroid."""

    def embed(images_B3SS: Tensor) -> Recognised:
        direct_BD = embedder(images_B3SS).direct_BD
        highest_G = prototypes.highest_cosine(collectives.gather(direct_BD))
        return Recognised([direct_BD], {"cosine": collectives.own_rows(highest_G)})

    return embed


def through_meta_head(
    embedder: Embedder, head: MetaHead, embeddings: tuple[str, ...]
) -> Callable[[Tensor], Recognised]:
    """The embeddings that are asked for, and γ."""

    def embed(images_B3SS: Tensor) -> Recognised:
        embedded = embedder(images_B3SS)
        v = head.embeddings(embedded, collectives.gather(embedded.direct_BD))
        every = {"direct": v.direct_BD, "memory": embedded.concept_BD * v.memory_BD, "infused": v.infused_BD}
        every |= {"meta": v.meta_BD, "squashed": v.squashed_BD}
        return Recognised([every[name] for name in embeddings], {"reachability": v.reach_B})

    return embed


def memory_of(folder: Path) -> tuple[Tensor, dict[str, Any]]:
    """The whole memory of a run, K x D centroids in the space of its direct features, and facts for meta.json.

    folder: a checkpoint, as `checkpoint.find` gives it. Raises UserError where it is of stage plain.
    """
    state = checkpoint.read_state(folder)
    if state.stage == "plain":
        raise UserError(f"--memory-set: {folder} is of stage plain, which has no memory; give a meta or a memory run")
    rows = checkpoint.read_rows(folder, Partition(state.num_classes), {"memory.centroids"})
    facts = {"recogniser": "checkpoint", "checkpoint": str(folder), "step": state.step, "embedding": "centroids"}
    return rows["memory.centroids"], facts


def from_pixels(size: int) -> Recogniser:
    """The grey image itself, its mean removed: what a recogniser must beat. D = S·S."""

    def embed(images_B3SS: Tensor) -> Recognised:
        grey_BN = torch.einsum("bchw,c->bhw", images_B3SS, images_B3SS.new_tensor(GREY)).flatten(1)
        return Recognised([grey_BN - grey_BN.mean(1, keepdim=True)], {})

    return Recogniser(embed, size, {"recogniser": "pixels", "size": size})


def with_flip(recogniser: Recogniser) -> Recogniser:
    """The sum of the normalised features of an image and of its mirror image; columns stay those of the image."""

    def embed(images_B3SS: Tensor) -> Recognised:
        image, mirrored = recogniser.embed(images_B3SS), recogniser.embed(images_B3SS.flip(3))
        pairs = zip(image.features, mirrored.features, strict=True)
        return Recognised([normalize(one) + normalize(other) for one, other in pairs], image.columns)

    return replace(recogniser, embed=embed)
