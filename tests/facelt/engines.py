"""Small engines of both stages, and batches for them: the same numbers at any number of ranks."""

import torch

from facelt.config import FaceltConfig
from facelt.head.heads import MetaHead, PlainHead
from facelt.network.embedder import Embedded, Embedder
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training.engine import Engine

K, G, SIZE, STEPS, LR = 7, 16, 32, 10, 0.001
SGD = {"type": "SGD", "params": {"lr": LR, "momentum": 0.9, "weight_decay": 5e-4}}


def tiny(batch_norm: str) -> FaceltConfig:
    backbone = {"name": "resnet10", "width": 8, "stem": "face", "batch_norm": batch_norm}
    return FaceltConfig.model_validate({"embedding_size": 16, "image_size": SIZE, "backbone": backbone})


def start_head(head: MetaHead, embedder: Embedder, partition: Partition) -> MetaHead:
    """Weights as after the memory's initialisation, and an attention that does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (head.memory.centroids, head.memory.hallucinator_weight):
            parameter.copy_(0.3 * torch.randn(K, 16, generator=generator)[slice(*partition.bounds())])
        embedder.attention.conv_mask.weight.normal_(0, 0.1, generator=generator)
    return head


class ExactEmbedder(Embedder):
    """Leaves autocast: what a loss scale does shows to the last digit, without float16's own rounding."""

    def forward(self, images_B3HW: torch.Tensor) -> Embedded:
        with torch.autocast("cpu", enabled=False):
            return super().forward(images_B3HW)


def smooth(embedder: Embedder) -> Embedder:
    """Activations without a kink: where one flips, runs that differ in the order of their sums alone part ways."""
    for module in embedder.modules():
        if isinstance(getattr(module, "relu", None), torch.nn.ReLU):
            module.relu = torch.nn.SiLU()
    return embedder


def halves(
    stage: str, batch_norm: str, kind: type[Embedder] = Embedder, config: FaceltConfig | None = None
) -> tuple[Embedder, PlainHead | MetaHead]:
    config = config or tiny(batch_norm)
    torch.manual_seed(3)
    embedder = smooth(kind(config, meta=stage == "meta"))
    partition = Partition(K, group.rank(), group.world_size())
    head = PlainHead(config, partition)
    if stage == "meta":
        head = start_head(MetaHead(config, partition), embedder, partition)
    return embedder, head


def build(stage: str, batch_norm: str, ds: dict) -> Engine:
    exact = ds.get("torch_autocast", {}).get("lower_precision_safe_modules") == []
    ds = {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9, **ds}
    return Engine(*halves(stage, batch_norm, ExactEmbedder if exact else Embedder), ds)


def batch(step: int, rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(G, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, K, (G,), generator=generator)
    return images[rank * G // ranks : (rank + 1) * G // ranks], labels
