"""Runs of random weights: whatever reads a checkpoint can be tried on them without training."""

from pathlib import Path
from typing import Any

import torch
from tiny import TINY

from facelt.config import FaceltConfig, StageName
from facelt.head.heads import MetaHead, PlainHead
from facelt.network.embedder import Embedder
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint


def write_random_run(folder: Path, classes: int, **block: Any) -> Path:
    """Stages plain and meta of the tiny recipe. block: knobs of it that differ."""
    config = FaceltConfig.model_validate({**TINY["facelt"], **block})
    torch.manual_seed(1)
    stages: tuple[StageName, ...] = ("plain", "meta")
    for stage in stages:
        embedder, partition = Embedder(config, stage == "meta", stage == "memory").eval(), Partition(classes)
        head = (MetaHead if stage == "meta" else PlainHead)(config, partition)
        for parameter in [*head.parameters(), *embedder.attention.parameters()]:
            torch.nn.init.normal_(parameter)
        state = checkpoint.CheckpointState(
            stage=stage, step=3, finished=True, global_batch=8, config=config, num_classes=classes, starts=[0]
        )
        rows = {name: p.detach() for name, p in head.named_parameters()}
        checkpoint.save(folder, state, weights=embedder.state_dict(), moments={"none": torch.zeros(1)}, rows=rows)
    return folder


def write_random_prototypes(folder: Path, classes: int, **block: Any) -> Path:
    """Stage memory of the tiny recipe, calibrated to nothing that means anything."""
    config = FaceltConfig.model_validate({**TINY["facelt"], "preset": "facelt", **block})
    torch.manual_seed(2)
    embedder = Embedder(config, False, memory=True).eval()
    torch.nn.init.normal_(embedder.projection)
    scalars = {"temperature": 16.0, "threshold": 0.25}
    state = checkpoint.CheckpointState(
        stage="memory", step=4, finished=True, global_batch=8, config=config, num_classes=classes, starts=[0],
        scalars=scalars,
    )  # fmt: skip
    rows = {"memory.centroids": torch.randn(classes, config.embedding_size)}
    checkpoint.save(folder, state, weights=embedder.state_dict(), moments={"none": torch.zeros(1)}, rows=rows)
    return folder
