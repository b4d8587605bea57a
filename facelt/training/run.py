"""What stays the same from the first step of a run to its last."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from facelt.config import FaceltConfig
from facelt.images.fingerprint import Fingerprint, fingerprint
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder.quarantine import Quarantine
from facelt.training.ending.stopping import StopRequest
from recordio_tools.dataset import RecordDataset


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one or two stages on one training set.

    config: every knob of ours. ds: DeepSpeed's configuration. partition: which classes this rank owns.
    folder: of checkpoints and reports. stop: what the run hears while it trains. allowed: what may differ from what a
    checkpoint was trained with, of `start.ALLOWABLE`.
    """

    config: FaceltConfig
    ds: dict[str, Any]
    dataset: RecordDataset
    partition: Partition
    device: torch.device
    folder: Path
    stop: StopRequest
    allowed: frozenset[str] = frozenset()

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
