"""The order of images and the seeds of augmentation: pure functions of (labels, seed, step), in numpy alone.

Position i of the global batch of step s names the same image and the same augmentation whatever the number of ranks,
and any step can be asked for without the steps before it: a run resumes by asking for the next one.
Nothing here draws from a generator whose stream may change between numpy versions: whole permutations sort Philox's raw
bits (a stream that numpy guarantees), everything else is splitmix64 hashing.

N: images, K: classes that have images, G: global batch.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facelt.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 32

# What a hash is for: equal words never meet across purposes.
_IMAGES, _CLASSES, _WITHIN_CLASS, _AUGMENTATION, _HEAD, _STAND_INS = range(6)


class UniformSampler:
    """Every image once per epoch, in a new order each epoch; batches run across the borders of epochs.

    labels: int64 of shape N (only the length is used). global_batch: G. Raises UserError when there are no images.
    """

    group = 1  # images that must stay on one rank

    def __init__(self, labels: NDArray[np.int64], global_batch: int, seed: int) -> None:
        _check(labels, global_batch)
        self.global_batch = global_batch
        self._size, self._seed = len(labels), seed

    def indices(self, step: int) -> NDArray[np.int64]:
        """Images of the global batch of a step: int64 of shape G."""
        positions = step * self.global_batch + np.arange(self.global_batch)
        return _cycled(positions, self._size, self._seed, _IMAGES)


class ClassAwareSampler:
    """Classes in shuffled cycles, each giving `images_per_class` images in a row from its own shuffled cycles.

    As OLTR's released sampler (batch 128 = 32 classes x 4), so every class is seen equally often however long the tail.
    labels: int64 of shape N. num_classes: when given, every class 0 … num_classes - 1 must have an image; otherwise the
    classes are those that occur in labels. Memory: two int64 an image, two a class.

    Raises UserError when there are no images, when a class has none, or when G is not whole groups.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        global_batch: int,
        seed: int,
        images_per_class: int = 4,
        num_classes: int | None = None,
    ) -> None:
        _check(labels, global_batch)
        if images_per_class < 1 or global_batch % images_per_class:
            raise UserError(
                f"global batch {global_batch} is not made of whole groups of {images_per_class} images of one class: "
                f"make it a multiple of {images_per_class}, or change the images per class"
            )
        self.global_batch, self.group = global_batch, images_per_class
        self._seed = seed
        self._by_class = np.argsort(labels, kind="stable")
        classes, self._start, self._count = np.unique(
            np.asarray(labels)[self._by_class], return_index=True, return_counts=True
        )
        if num_classes is not None:
            _check_classes(classes, num_classes)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Images of the global batch of a step, the images of one class side by side: int64 of shape G."""
        groups, num_classes = self.global_batch // self.group, len(self._count)
        turn = step * groups + np.arange(groups)
        class_ = _cycled(turn, num_classes, self._seed, _CLASSES)[:, None]
        position = turn[:, None] // num_classes * self.group + np.arange(self.group)
        lap, place = np.divmod(position, self._count[class_])
        place = _shuffled(place, self._count[class_], _hash(self._seed, _WITHIN_CLASS, class_, lap))
        return self._by_class[self._start[class_] + place].ravel()


class DeferredSampler:
    """One sampler before a step, another from it on, which begins there with its first batch: deferred re-sampling
    (Cao et al. 2019). Both have the same global batch.

    first_step: of `later`.
    """

    def __init__(self, earlier: UniformSampler, later: ClassAwareSampler, first_step: int) -> None:
        self.global_batch, self.group = later.global_batch, later.group
        self._earlier, self._later, self._first_step = earlier, later, first_step

    def indices(self, step: int) -> NDArray[np.int64]:
        """Images of the global batch of a step: int64 of shape G."""
        if step < self._first_step:
            return self._earlier.indices(step)
        return self._later.indices(step - self._first_step)


Sampler = UniformSampler | ClassAwareSampler | DeferredSampler


class SequentialSampler:
    """Every image once, in order; the last batch is filled up with the last image.

    size: N. global_batch: G.
    """

    group = 1

    def __init__(self, size: int, global_batch: int) -> None:
        self.size, self.global_batch = size, global_batch

    @property
    def steps(self) -> int:
        """Batches of one pass."""
        return -(-self.size // self.global_batch)

    def positions(self, step: int) -> NDArray[np.int64]:
        """Places of a batch in the pass: int64 of shape G; those from N on are filling."""
        return step * self.global_batch + np.arange(self.global_batch)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Images of the batch of a step: int64 of shape G."""
        return np.minimum(self.positions(step), self.size - 1)


def local(batch: NDArray, rank: int, world_size: int, group: int = 1) -> NDArray:
    """The slice of a global batch (of indices, of seeds) that one rank works on.

    group: images that must stay on one rank (`sampler.group`). Raises UserError when the ranks cannot share alike.
    """
    if len(batch) % (world_size * group):
        unit = f" in whole groups of {group}" if group > 1 else ""
        raise UserError(
            f"a global batch of {len(batch)} cannot be shared alike by {world_size} ranks{unit}: "
            f"make it a multiple of {world_size * group}, or change the number of ranks"
        )
    share = len(batch) // world_size
    return batch[rank * share : (rank + 1) * share]


def stand_ins(labels: NDArray[np.int64], image: int, seed: int, step: int, position: int) -> Iterator[int]:
    """Images that may stand in for one at a position of the global batch of a step, the most wanted first.

    Those of its class, then those of all others, each in an order that is drawn for this position of this step.
    labels: int64 of shape N.
    """
    of_class = labels == labels[image]
    for kin in (True, False):
        pool = np.flatnonzero(of_class == kin)
        size, key = np.array([[len(pool)]]), _hash(seed, _STAND_INS, step, position, kin)
        for place in range(len(pool)):
            other = int(pool[_shuffled(np.array([[place]]), size, key)[0, 0]])
            if other != image:
                yield other


def augmentation_seeds(seed: int, step: int, global_batch: int) -> NDArray[np.uint64]:
    """One seed for every position of the global batch of a step: uint64 of shape G."""
    return _hash(seed, _AUGMENTATION, step, np.arange(global_batch))


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """A seed for what a head draws in one micro-batch of a step, below 2^63; the same on all ranks."""
    return int(_hash(seed, _HEAD, step, part)[0] >> np.uint64(1))


def uniforms(seeds: NDArray[np.uint64], n: int) -> NDArray[np.float64]:
    """n numbers in [0, 1) for every seed, float64 of shape len(seeds) x n: row i depends on seeds[i] alone.

    These are the first n outputs of splitmix64 started at the seed, the upper 53 bits of each.
    """
    counter = np.arange(n, dtype=np.uint64)
    return (_mix(seeds[:, None] + counter * _GOLDEN) >> np.uint64(11)) * 2.0**-53


def _cycled(positions: NDArray[np.int64], size: int, seed: int, purpose: int) -> NDArray[np.int64]:
    """What stands at these positions of the endless stream of shuffled cycles of 0 … size - 1."""
    cycle, place = np.divmod(positions, size)
    out = np.empty_like(positions)
    for each in np.unique(cycle):
        here = cycle == each
        out[here] = _permutation(size, seed, purpose, int(each))[place[here]]
    return out


@lru_cache(maxsize=4)  # two samplers, each on the border of two cycles
def _permutation(size: int, seed: int, purpose: int, cycle: int) -> NDArray[np.int64]:
    bits = np.random.Philox(np.random.SeedSequence((seed, purpose, cycle))).random_raw(size)
    return np.argsort(bits, kind="stable")


def _shuffled(place: NDArray[np.int64], size: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a shuffle of 0 … size - 1, chosen by the key, sends each place: matrices that broadcast.

    The swap-or-not shuffle (Hoang, Morris and Rogaway, 2012): each round pairs x with pivot - x and swaps the pair on
    the toss of a coin that both see. A place is found without permuting its class, so the cost does not depend on size.
    """
    size, place = size.astype(np.uint64), place.astype(np.uint64)  # pyright: ignore[reportAssignmentType]
    round_keys = _mix(np.multiply.outer(np.arange(_ROUNDS, dtype=np.uint64), _GOLDEN).reshape(-1, 1, 1) + key)
    for round_key, pivot in zip(round_keys, round_keys % size, strict=True):
        partner = pivot + size - place
        partner = np.where(partner < size, partner, partner - size)
        coin = _mix(round_key ^ np.maximum(place, partner)) >> np.uint64(63)
        place = np.where(coin, partner, place)
    return place.astype(np.int64)


def _hash(*words: ArrayLike) -> NDArray[np.uint64]:
    """One uint64 for each tuple of integers; the words broadcast, the result has one dimension at least."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _mix(state ^ np.asarray(word).astype(np.uint64))
    return state


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output of splitmix64 (Steele, Lea and Flood, 2014) in state x."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check(labels: NDArray[np.int64], global_batch: int) -> None:
    if not len(labels):
        raise UserError("the training set has no images to sample: give a data folder with images")
    if global_batch < 1:
        raise UserError(f"global batch {global_batch} is too small: give at least 1")


def _check_classes(classes: NDArray[np.int64], num_classes: int) -> None:
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if len(outside):
        raise UserError(
            f"label {outside[0]} is outside the classes 0 to {num_classes - 1}: correct the number of classes"
        )
    empty = np.setdiff1d(np.arange(num_classes), classes, assume_unique=True)
    if len(empty):
        raise UserError(
            f"class {empty[0]} has no image ({len(empty)} of {num_classes} classes have none), class-aware sampling "
            "needs one of each: drop the empty identities from the set, or sample uniformly"
        )
