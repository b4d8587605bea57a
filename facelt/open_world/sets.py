"""What is evaluated: training, test and open set, of images or of stored features, and one pass over each.

B: rows of this rank in a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from facelt.errors import UserError, one_line
from facelt.features.recognisers import Recognised, Recogniser
from facelt.features.stored import FeatureSet
from facelt.images.one_pass import Batch, each_batch
from facelt.images.sampling import SequentialSampler, local
from facelt.open_world.people import known_people, other_class, same_images
from facelt.parallel import group
from recordio_tools.dataset import RecordDataset


class Labelled(Protocol):
    """What a set of images and a set of features have in common. labels: int64, N. names: by label, where known."""

    labels: NDArray[np.int64]
    names: list[str] | None

    def __len__(self) -> int: ...

    @property
    def num_classes(self) -> int: ...


@dataclass(frozen=True)
class Given:
    """A set, and how the command line named it."""

    option: str
    path: str
    content: RecordDataset | FeatureSet

    def __str__(self) -> str:
        return f"{self.option} {self.path}"

    @property
    def resolved(self) -> Path:
        """Where it lies."""
        return Path(self.path).resolve()

    def same(self, other: "Given") -> bool:
        """Whether both are one set, of one folder or copied."""
        return self.resolved == other.resolved or same_images(self.content, other.content)


@dataclass(frozen=True)
class Sets:
    """The three sets. strangers: None where there are none."""

    train: Given
    test: Given
    strangers: Given | None

    @property
    def counts_K(self) -> NDArray[np.int64]:
        """Training images of each class."""
        train = self.train.content
        return np.bincount(train.labels, minlength=train.num_classes)

    @property
    def identities_M(self) -> NDArray[np.int64]:
        """Labels of the open images."""
        return np.empty(0, np.int64) if self.strangers is None else self.strangers.content.labels

    def check_classes(self, num_classes: int) -> None:
        """Refuse a training set of another number of classes than a run was trained on."""
        if self.train.content.num_classes != num_classes:
            raise UserError(
                f"{self.train}: has {self.train.content.num_classes} classes, the run was trained on {num_classes}; "
                "give the set that it was trained on"
            )

    def check(self) -> None:
        """Refuse sets that do not fit each other, before anything is read of them."""
        for one in (self.train, self.test):
            if self.strangers is not None and one.same(self.strangers):
                raise UserError(f"{self.strangers}: is {one.option} too; give people whom the run does not know")
        if self.test.same(self.train):
            group.say(f"warning: {self.test}: is {self.train.option} too: its figures say nothing of new images")
        counts_K = self.counts_K
        uncounted = [int(k) for k in np.unique(self.test.content.labels) if k >= len(counts_K) or not counts_K[k]]
        if uncounted:
            raise UserError(
                f"{self.test}: label {uncounted[0]} has no image in {self.train}, so no training count; leave such "
                "images out, or give people whom the run does not know as --open"
            )
        if self.strangers is not None and self.strangers.content.labels.size == 0:
            raise UserError(f"{self.strangers}: has no image; leave it out")
        self._check_people()
        if isinstance(self.train.content, FeatureSet):
            self._check_dimensions()

    def _check_people(self) -> None:
        train = self.train.content
        if (other := other_class(train, self.test.content)) is not None:
            label, here, there = other
            raise UserError(
                f"{self.test}: label {label} is {here}, in {self.train} it is {there}; give a test set with the labels "
                "of the training set: for one by a list, recordio_tools pack or curate --labels-of TRAIN makes it"
            )
        if self.strangers is None:
            return
        for label, known in known_people(train, self.strangers.content):
            raise UserError(
                f"{self.strangers}: label {label} is {known}, whom {self.train} has too; leave known people out of "
                "the strangers"
            )

    def _check_dimensions(self) -> None:
        train = cast(FeatureSet, self.train.content).rows_ND.shape[1]
        for given in (self.test, self.strangers):
            if given is not None and (other := cast(FeatureSet, given.content).rows_ND.shape[1]) != train:
                raise UserError(
                    f"{given}: features of {other} numbers, those of {self.train} have {train}; give features of one "
                    "recogniser"
                )


class Batches(Protocol):
    """How a set is passed over: its embeddings, batch after batch, all ranks together."""

    @property
    def embeddings(self) -> tuple[str, ...]: ...

    def each(self, given: Given, title: str) -> Iterator[Batch[Recognised]]: ...


@dataclass(frozen=True)
class ImageBatches:
    """Images through a recogniser. size: images of each rank in a batch. command: that answers for one that does not
    decode."""

    recogniser: Recogniser
    size: int
    device: torch.device
    command: str = "facelt.evaluate"

    @property
    def embeddings(self) -> tuple[str, ...]:
        return self.recogniser.embeddings

    def each(self, given: Given, title: str) -> Iterator[Batch[Recognised]]:
        """One pass. An image that does not decode ends the run in one line, said by the rank that met it."""
        dataset, decoding = given.content, self.recogniser.decoding(self.size, self.device)
        assert isinstance(dataset, RecordDataset)
        with one_line(self.command, every_rank=True):
            yield from each_batch(self.recogniser.embed, dataset, decoding, title)


@dataclass(frozen=True)
class RowBatches:
    """Stored features, taken for direct ones. size: rows of each rank in a batch."""

    size: int
    device: torch.device
    embeddings: tuple[str, ...] = ("direct",)

    def each(self, given: Given, title: str) -> Iterator[Batch[Recognised]]:
        """One pass."""
        features, ranks, rank = given.content, group.world_size(), group.rank()
        assert isinstance(features, FeatureSet)
        sampler = SequentialSampler(len(features), self.size * ranks)
        with tqdm(total=len(features), desc=title, unit="row", disable=rank > 0, mininterval=1) as bar:
            for i in range(sampler.steps):
                rows_G, valid_G = sampler.indices(i), sampler.positions(i) < len(features)
                rows_BD = np.asarray(features.rows_ND[local(rows_G, rank, ranks)], np.float32)
                output = Recognised([torch.from_numpy(rows_BD).to(self.device)], {})
                yield Batch(rows_G, valid_G, output)
                bar.update(int(valid_G.sum()))
