"""The sets that a run is validated on, opened and checked before its first step.

P: pairs, N: images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelt.config import ValidationConfig, set_name
from facelt.errors import UserError
from facelt.open_world.people import known_people, other_class, same_images
from facelt.open_world.sets import Given
from facelt.open_world.shots import Bounds
from facelt.parallel import group
from facelt.validation import figures
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.pictures import DECODE_ERRORS, image_size
from recordio_tools.sources.bins import read_pack

MOST = 5000  # images of strangers; of a larger set whole people are drawn
SEED = 0


@dataclass(frozen=True)
class PackImages:
    """The images of a pack as a set that is passed over. folder: the pack, for what is said of an image."""

    folder: Path
    images: list[bytes]
    image_size: tuple[int, int]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The pair of each image."""
        return self.keys // 2

    @property
    def keys(self) -> NDArray[np.int64]:
        """Their numbers."""
        return np.arange(len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def jpeg(self, i: int) -> NDArray[np.uint8]:
        """One of them, encoded."""
        return np.frombuffer(self.images[i], np.uint8)


@dataclass(frozen=True)
class SomeImages:
    """Some rows of a data folder as a set of their own."""

    dataset: RecordDataset
    rows: NDArray[np.int64]

    @property
    def folder(self) -> Path:
        """Of the whole set."""
        return self.dataset.folder

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of the rows."""
        return self.dataset.labels[self.rows]

    @property
    def keys(self) -> NDArray[np.int64]:
        """Of the rows, in the whole set."""
        return self.dataset.keys[self.rows]

    @property
    def image_size(self) -> tuple[int, int]:
        """Of the whole set."""
        return self.dataset.image_size

    def __len__(self) -> int:
        return len(self.rows)

    def jpeg(self, i: int) -> NDArray[np.uint8]:
        """One of them, encoded."""
        return self.dataset.jpeg(int(self.rows[i]))


@dataclass(frozen=True)
class PairSet:
    """A verification pack: P pairs, images 2i and 2i + 1, and whether each shows one person."""

    name: str
    images: PackImages
    same_P: NDArray[np.bool_]

    @property
    def passes(self) -> int:
        """Images that are passed through the network: each and its mirror image."""
        return 2 * len(self.images)

    @property
    def figures(self) -> list[str]:
        """What can be told of it."""
        return ["accuracy", *figures.measurable(int((~self.same_P).sum()))]

    def __str__(self) -> str:
        return f"{self.name}: {len(self.same_P):,} pairs"


@dataclass(frozen=True)
class StrangerSet:
    """People whom the run does not train on. whole: images of the data folder, of which `images` are some."""

    name: str
    images: SomeImages
    whole: int

    @property
    def passes(self) -> int:
        """Images that are passed through the network."""
        return len(self.images)

    @property
    def figures(self) -> list[str]:
        """What can be told of it."""
        _, counts = np.unique(self.images.labels, return_counts=True)
        return ["rank_1", *figures.measurable(int(len(self.images) ** 2 - (counts**2).sum()) // 2)]

    def __str__(self) -> str:
        part = "" if len(self.images) == self.whole else f", of {self.whole:,}"
        people = len(np.unique(self.images.labels))
        return f"{self.name}: {len(self.images):,} images{part} of {people:,} people who are not trained on"


@dataclass(frozen=True)
class KnownSet:
    """Other images of the training people, with the labels of the training set. members: see `shots.Bounds`."""

    name: str
    given: Given
    members: dict[str, NDArray[np.bool_]]

    @property
    def dataset(self) -> RecordDataset:
        """Its images."""
        assert isinstance(self.given.content, RecordDataset)
        return self.given.content

    @property
    def passes(self) -> int:
        """Images that are passed through the network."""
        return len(self.dataset)

    @property
    def figures(self) -> list[str]:
        """What can be told of it, by each reading."""
        classes = np.unique(self.dataset.labels)
        return ["all", *(name for name, member_K in self.members.items() if member_K[classes].any())]

    def __str__(self) -> str:
        people = len(np.unique(self.dataset.labels))
        return f"{self.name}: {len(self.dataset):,} images of {people:,} of the training people"


ValidationSet = PairSet | StrangerSet | KnownSet


def open_sets(knobs: ValidationConfig, train: RecordDataset) -> list[ValidationSet]:
    """The sets that the knobs name, in their order, and a line for each that says what it is taken for.

    Raises UserError for one that is missing, damaged, or not of its kind.
    """
    bounds = Bounds(knobs.many, knobs.few)
    members = bounds.members(np.bincount(train.labels, minlength=train.num_classes))
    found: list[ValidationSet] = []
    for path in knobs.packs:
        found.append(_pairs(path))
    for path in knobs.strangers:
        found.append(_strangers(path, train))
    for path in knobs.known:
        found.append(KnownSet(set_name(path), _known(path, train), members))
    for one in found:
        group.say(f"validation: {one}")
    return found


def _pairs(path: str) -> PairSet:
    if Path(path).is_dir():
        raise UserError(
            f"validation.packs: {path} is a folder; expected a pack such as lfw.bin: give a data folder as "
            "validation.strangers or validation.known"
        )
    if not Path(path).exists():
        raise UserError(f"validation.packs: {path}: no such file; give one, or go without by --set validation.packs=[]")
    pack = read_pack(path)
    if len(pack.same) < figures.FOLDS or pack.same.all() or not pack.same.any():
        raise UserError(
            f"validation.packs: {path} has {len(pack.same)} pairs, {int(pack.same.sum())} of one person; expected "
            f"{figures.FOLDS} at least, and both kinds; give another pack"
        )
    for number, image in enumerate(pack.images):
        try:
            size = image_size(image)
        except DECODE_ERRORS as error:
            raise UserError(
                f"validation.packs: {path}: image {number} does not decode ({type(error).__name__}); give a whole pack"
            ) from None
    return PairSet(set_name(path), PackImages(Path(path), pack.images, size), pack.same)


def _folder(knob: str, path: str) -> RecordDataset:
    if Path(path).is_file() and path.endswith(".bin"):
        raise UserError(f"validation.{knob}: {path} is a pack; give it as validation.packs")
    if not Path(path).exists():
        raise UserError(
            f"validation.{knob}: {path}: no such folder; give one, or go without by --set validation.{knob}=[]"
        )
    return RecordDataset(path)


def _strangers(path: str, train: RecordDataset) -> StrangerSet:
    dataset = _folder("strangers", path)
    _warn_of_known_people(path, dataset, train)
    rows = whole_people(dataset.labels, MOST)
    _, counts = np.unique(dataset.labels[rows], return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise UserError(
            f"validation.strangers: {path} has {len(counts)} people with {counts.max(initial=0)} images at most; "
            "expected two people, and two images of one of them: the nearest other image tells who it is"
        )
    return StrangerSet(set_name(path), SomeImages(dataset, rows), len(dataset))


def _warn_of_known_people(path: str, dataset: RecordDataset, train: RecordDataset) -> None:
    warning = f"warning: validation.strangers: {path}"
    if dataset.folder.resolve() == train.folder.resolve():
        group.say(f"{warning} is the training set itself: its figures say nothing of strangers")
    elif shared := known_people(train, dataset):
        group.say(
            f"{warning} shares {len(shared):,} people with the training set, {shared[0][1]} the first: they are no "
            "strangers"
        )


def _known(path: str, train: RecordDataset) -> Given:
    dataset = _folder("known", path)
    if dataset.folder.resolve() == train.folder.resolve() or same_images(train, dataset):
        group.say(
            f"warning: validation.known: {path} is the training set itself: its figures say nothing of new images"
        )
    counts_K, present = np.bincount(train.labels, minlength=train.num_classes), np.unique(dataset.labels)
    unknown = [int(k) for k in present if k >= len(counts_K) or not counts_K[k]]
    if unknown:
        raise UserError(
            f"validation.known: {path}: label {unknown[0]} has no image in the training set {train.folder}; give "
            "images of its people with its labels, or give other people as validation.strangers"
        )
    if (other := other_class(train, dataset)) is not None:
        label, here, there = other
        raise UserError(
            f"validation.known: {path}: label {label} is {here}, in {train.folder} it is {there}; give images with the "
            "labels of the training set (of a list, recordio_tools pack or curate --labels-of makes it), or give other "
            "people as validation.strangers"
        )
    return Given("validation.known", path, dataset)


def whole_people(labels_N: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows, ascending, of as many people, in a seeded order, as have `most` images together; one who does not fit is
    passed over. All rows where they are few enough."""
    if len(labels_N) <= most:
        return np.arange(len(labels_N))
    people, images = np.unique(labels_N, return_counts=True)
    taken, held = [], 0
    for at in np.random.default_rng(SEED).permutation(len(people)).tolist():
        if held + images[at] <= most:
            held += int(images[at])
            taken.append(people[at])
    return np.flatnonzero(np.isin(labels_N, taken))
