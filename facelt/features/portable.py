"""A trained recogniser as one network, without ranks: what is exported, and what an exported file is read into.

B: images, S: side of the images, D: size of a feature, K: classes of the memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.features.facts import METADATA_KEY, RecogniserFacts
from facelt.features.recognisers import Recognised, Recogniser
from facelt.head import meta_embedding
from facelt.head.blocked import inverse_norms
from facelt.network.embedder import Embedded, Embedder
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint

COLUMNS = ("reachability", "cosine")  # outputs that are kept beside a feature; `identity` is none


class Memory(nn.Module):
    """All K centroids, and what retrieves them, as a checkpoint names them."""

    def __init__(self, classes: int, embedding_size: int, hallucinates: bool) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(classes, embedding_size))
        if hallucinates:
            self.hallucinator_weight = nn.Parameter(torch.zeros(classes, embedding_size))
            self.hallucinator_bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("inverse_norm_K", torch.ones(classes), persistent=False)
        self.register_buffer("half_square_K", torch.zeros(classes), persistent=False)

    inverse_norm_K: Tensor
    half_square_K: Tensor

    def prepare(self) -> None:
        """After the centroids were loaded."""
        self.inverse_norm_K = inverse_norms(self.centroids)
        self.half_square_K = self.centroids.detach().square().sum(1) / 2

    def cosines(self, features_BD: Tensor) -> Tensor:
        """B x K."""
        return (normalize(features_BD) @ self.centroids.T) * self.inverse_norm_K

    def nearest(self, direct_BD: Tensor) -> Tensor:
        """c* of equation 3, B x D."""
        return self.centroids[(direct_BD @ self.centroids.T - self.half_square_K).argmax(1)]


class PortableNetwork(nn.Module):
    """Images B x 3 x S x S -> the outputs that its facts name: the feature first.

    Products are float32, whatever they were while it trained. With facts.normalised "inside" images are RGB 0 … 255,
    else (x - mean) / std of that.
    """

    def __init__(self, facts: RecogniserFacts) -> None:
        super().__init__()
        self.facts, self.config = facts, facts.config
        self.embedder = Embedder(self.config, facts.stage == "meta", facts.stage == "memory")
        hallucinates = (
            facts.stage == "meta" and self.config.head.memory and self.config.head.retrieval == "hallucinator"
        )
        self.memory = None if facts.classes is None else Memory(facts.classes, facts.dimension, hallucinates)
        self.register_buffer("mean_311", torch.tensor(facts.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("scale_311", 1 / torch.tensor(facts.pixel_std).view(3, 1, 1), persistent=False)

    mean_311: Tensor
    scale_311: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.facts.normalised == "inside":
            images = (images - self.mean_311) * self.scale_311
        embedded = self.embedder(images)
        if self.memory is None:
            return (embedded.direct_BD,)
        if self.facts.stage == "memory":
            cosine_B, identity_B = self.memory.cosines(embedded.direct_BD).max(1)
            return embedded.direct_BD, identity_B, cosine_B
        return self._through_memory(embedded)

    def _through_memory(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """The embedding and γ."""
        assert self.memory is not None
        assert embedded.concept_BD is not None
        knobs, direct_BD = self.config.head, embedded.direct_BD
        memory_BD = self._read(direct_BD, embedded.temperature)
        reach_B = meta_embedding.reach(direct_BD, self.memory.nearest(direct_BD))
        infused_BD = meta_embedding.infuse(direct_BD, embedded.concept_BD, memory_BD)
        meta_BD = meta_embedding.calibrate(infused_BD, reach_B, knobs.reach_scale) if knobs.reach else infused_BD
        every = {
            "memory": embedded.concept_BD * memory_BD,
            "infused": infused_BD,
            "meta": meta_BD,
            "squashed": meta_embedding.squash(meta_BD, knobs.squash),
        }
        return every[self.facts.embedding], reach_B

    def _read(self, direct_BD: Tensor, temperature: Tensor | None) -> Tensor:
        """v_memory of equation 1."""
        knobs, memory = self.config.head, self.memory
        assert memory is not None
        if not knobs.memory:
            return torch.zeros_like(direct_BD)
        if knobs.retrieval == "mean":
            return memory.centroids.mean(0).expand_as(direct_BD)
        if knobs.retrieval == "cosine":
            assert temperature is not None
            return torch.softmax(temperature * memory.cosines(direct_BD), 1) @ memory.centroids
        scores_BK = direct_BD @ memory.hallucinator_weight.T + memory.hallucinator_bias
        return (torch.softmax(scores_BK, 1) if knobs.hallucinator == "softmax" else scores_BK) @ memory.centroids

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, named as in a checkpoint."""
        return {name.removeprefix("embedder."): tensor for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor], where: object) -> None:
        """Take the tensors of `tensors`, and be still. Raises UserError where they are others; `where` names them."""
        own = {name.removeprefix("embedder."): name for name in self.state_dict()}
        try:
            self.load_state_dict({own.get(name, name): tensor for name, tensor in tensors.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{where}: its tensors are not those of its configuration ({reason}); export it again"
            ) from None
        if self.memory is not None:
            self.memory.prepare()
        self.eval().requires_grad_(False)


def from_run(folder: Path, embedding: str, identify: bool, inside: bool) -> PortableNetwork:
    """The recogniser of a checkpoint, as `checkpoint.find` gives it.

    Args:
        folder: of the checkpoint.
        embedding: one of `meta_embedding.EMBEDDINGS`.
        identify: a memory of prototypes comes with it, and says of each image the class and its cosine.
        inside: the network normalises its images itself.

    Raises:
        UserError: the run's stage does not give what is asked for.
    """
    state = checkpoint.read_state(folder)
    if identify and state.stage != "memory":
        raise UserError(
            f"--identify: {folder} is of stage {state.stage}; give a run with stage memory, or leave it out"
        )
    if embedding != "direct" and state.stage != "meta":
        raise UserError(
            f"--embedding {embedding}: {folder} is of stage {state.stage}, which has only direct; give a meta run"
        )
    with_memory = identify or embedding != "direct"
    beside = ["identity", "cosine"] if identify else ["reachability"] if with_memory else []
    facts = RecogniserFacts(
        stage=state.stage,
        step=state.step,
        embedding=embedding,
        outputs=("features", *beside),
        dimension=state.config.embedding_size,
        image_size=state.config.image_size,
        resize=state.config.resize,
        pixel_mean=state.config.pixel_mean,
        pixel_std=state.config.pixel_std,
        normalised="inside" if inside else "outside",
        classes=state.num_classes if with_memory else None,
        temperature=state.scalars.get("temperature") if state.stage == "memory" else None,
        threshold=state.scalars.get("threshold") if state.stage == "memory" else None,
        data=state.data,
        config=_without_places(state.config),
    )
    network = PortableNetwork(facts)
    tensors = checkpoint.read_weights(folder)
    if state.stage == "meta" and not with_memory:
        wanted = network.tensors().keys()
        tensors = {name: tensor for name, tensor in tensors.items() if name in wanted}
    if with_memory:
        wanted = {name for name in network.tensors() if name.startswith("memory.")}
        tensors |= checkpoint.read_rows(folder, Partition(state.num_classes), wanted)
    network.load(tensors, folder)
    return network


def _without_places(config: FaceltConfig) -> FaceltConfig:
    """The configuration without paths of the machine that it trained on: an exported file goes to others."""
    backbone = config.backbone.model_copy(update={"init": None})
    return config.model_copy(update={"data": None, "output": None, "backbone": backbone})


def as_recogniser(network: PortableNetwork, device: torch.device, made_by: dict[str, Any]) -> Recogniser:
    """A portable network, which must not normalise by itself, as a recogniser. made_by: for meta.json."""
    facts = network.facts
    network.to(device)

    @torch.no_grad()
    def embed(images_B3SS: Tensor) -> Recognised:
        feature_BD, *beside = network(images_B3SS.to(device))
        known = dict(zip(facts.outputs[1:], beside, strict=True))
        return Recognised([feature_BD], {name: known[name] for name in COLUMNS if name in known})

    return Recogniser(
        embed,
        facts.image_size,
        {**made_by, "step": facts.step},
        (facts.embedding,),
        mean=facts.pixel_mean,
        std=facts.pixel_std,
        resize=facts.resize,
    )


def from_safetensors(path: Path, device: torch.device) -> Recogniser:
    """A recogniser that `facelt.export --safetensors` wrote. Raises UserError for any other file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected one that facelt.export --safetensors wrote")
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no readable safetensors file ({error}); export it again") from None
    if said is None:
        raise UserError(f"{path}: holds tensors alone, not what they are of; give one of facelt.export --safetensors")
    network = PortableNetwork(RecogniserFacts.read(said, path))
    network.load(tensors, path)
    return as_recogniser(network, device, {"recogniser": "safetensors", "model": str(path)})
