"""What stays the same from the first step of a run to its last."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from facelt.config import FaceltConfig
from facelt.head.heads import Head
from facelt.images.fingerprint import Fingerprint, fingerprint
from facelt.network.embedder import Embedder
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder.quarantine import Quarantine
from facelt.training.ending.stopping import StopRequest
from recordio_tools.dataset import RecordDataset


class Measure(Protocol):
    """Measures a network and its head on images that they do not train on, and leaves both as they were."""

    @property
    def images(self) -> int:
        """How many images that passes through the network."""
        ...

    def __call__(self, embedder: Embedder, head: Head) -> dict[str, float]:
        """Figures by name, higher is better, on all ranks alike, which must all call it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one or two stages on one training set.

    config: every knob of ours. ds: DeepSpeed's configuration. partition: which classes this rank owns.
    folder: of checkpoints and reports. stop: what the run hears while it trains. allowed: what may differ from what a
    checkpoint was trained with, of `start.ALLOWABLE`. measure: what validates it; None: nothing does.
    """

    config: FaceltConfig
    ds: dict[str, Any]
    dataset: RecordDataset
    partition: Partition
    device: torch.device
    folder: Path
    stop: StopRequest
    allowed: frozenset[str] = frozenset()
    measure: Measure | None = None

    @property
    def global_batch(self) -> int:
        """Images of one optimizer step, over all ranks and micro-batches."""
        return self.ds["train_batch_size"]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """That of the training set. All ranks must ask for it alike."""
        return group.share(fingerprint(self.dataset) if group.rank() == 0 else None)  # pyright: ignore[reportReturnType]

    @cached_property
    def quarantine(self) -> Quarantine:
        """Of the images that do not decode. All ranks must ask for it alike."""
        return Quarantine(self.folder, self.dataset, self.config.max_unreadable)
