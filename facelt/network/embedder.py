"""The replicated network: images to direct features, concept selectors and the temperature of retrieval.

B: images of this rank, D: embedding size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from facelt.config import FaceltConfig
from facelt.network import backbone, neck
from facelt.network.attention import ModulatedAttention
from facelt.network.selector import ConceptSelector, Temperature
from facelt.network.weight_generator import Generation, WeightGenerator


class Embedded(NamedTuple):
    """direct_BD: v_direct. concept_BD: e of equation 4, or None in stage plain. temperature: of cosine retrieval.
    generation: of few-shot learning without forgetting."""

    direct_BD: Tensor
    concept_BD: Tensor | None = None
    temperature: Tensor | None = None
    generation: Generation | None = None


class Embedder(nn.Module):
    """Images -> direct feature and, in stage meta, concept selector and temperature. Every rank has all of it.

    memory: whether it is that of stage memory, which multiplies the direct feature by a D x D `projection`: nothing but
    the identity until the stage ends (`training.filling.fill_prototypes`).
    """

    projection: Tensor | None

    def __init__(self, config: FaceltConfig, meta: bool, memory: bool = False) -> None:
        super().__init__()
        b = config.backbone
        self.backbone = backbone.of(b, config.image_size)
        self.attention: nn.Module = nn.Identity()
        map_CHW = (self.backbone.channels, *self._map_size(config.image_size))
        if meta and config.head.attention:
            self.attention = ModulatedAttention(*map_CHW, config.head.attention_on)
        self.own_neck = meta and b.meta_neck is not None
        self.neck = neck.build(
            (b.meta_neck if meta else None) or b.neck, map_CHW, config.embedding_size, self.backbone.norm_layer
        )
        selector = config.head.selector if config.head.memory else "one"  # of a memory that is not infused
        self.selector = ConceptSelector(config.embedding_size, selector) if meta else None
        cosine = meta and config.head.retrieval == "cosine"
        self.temperature = Temperature(config.head.temperature) if cosine else None
        generates = config.plain_head.few_shot and not meta and not memory
        self.generator = WeightGenerator(config.embedding_size) if generates else None
        self.register_buffer("projection", torch.eye(config.embedding_size) if memory else None)

    def added_names(self) -> set[str]:
        """Names of the tensors that are added to the network of a usual stage plain."""
        added: dict[str, nn.Module | None] = {"attention": self.attention, "selector": self.selector}
        added |= {"temperature": self.temperature, "generator": self.generator}
        if self.own_neck:
            added["neck"] = self.neck
        names = {f"{part}.{name}" for part, module in added.items() if module for name in module.state_dict()}
        return names | ({"projection"} if self.projection is not None else set())

    def _map_size(self, image_size: int) -> tuple[int, int]:
        with torch.no_grad():
            mode = self.backbone.training
            shape = self.backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape
            self.backbone.train(mode)
        return shape[2], shape[3]

    def forward(self, images_B3HW: Tensor) -> Embedded:
        map_BCHW = self.attention(self.backbone(images_B3HW))
        # Distances to centroids need more than autocast's eight bits: from the last map on, the weights' own precision.
        with torch.autocast(map_BCHW.device.type, enabled=False):
            direct_BD = self.neck(map_BCHW.to(next(self.parameters()).dtype))
            if self.projection is not None:
                direct_BD = linear(direct_BD, self.projection)
            concept_BD = None if self.selector is None else self.selector(direct_BD)
            temperature = None if self.temperature is None else self.temperature()
            generation = None if self.generator is None else self.generator(direct_BD)
            return Embedded(direct_BD, concept_BD, temperature, generation)
