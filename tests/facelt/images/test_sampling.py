"""The order of images against plain-Python twins, and its properties: coverage, independence of ranks, resumption."""

import math
from collections import Counter
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelt.images.sampling import (
    ClassAwareSampler,
    SequentialSampler,
    UniformSampler,
    _shuffled,
    augmentation_seeds,
    local,
    stand_ins,
    uniforms,
)

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(x):
    x = (x + GOLDEN) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def hashed(*words):
    state = 0
    for word in words:
        state = splitmix(state ^ word)
    return state


def swap_or_not(n, key):
    """The shuffle as its paper writes it, one place at a time."""
    order = []
    for x in range(n):
        for r in range(32):
            round_key = splitmix((key + r * GOLDEN) & MASK)
            partner = (round_key - x) % n
            if splitmix(round_key ^ max(x, partner)) >> 63:
                x = partner
        order.append(x)
    return order


def sorted_bits(n, seed, purpose, cycle):
    bits = np.random.Philox(np.random.SeedSequence((seed, purpose, cycle))).random_raw(n).tolist()
    return sorted(range(n), key=bits.__getitem__)


def uniform_stream(labels, seed):
    for epoch in count():
        yield from sorted_bits(len(labels), seed, 0, epoch)


def class_aware_stream(labels, seed, images_per_class):
    """One image after the other, as a person would deal them out."""
    classes = sorted(set(labels))
    images = [[i for i, label in enumerate(labels) if label == c] for c in classes]

    def own_stream(c):
        for lap in count():
            yield from (images[c][place] for place in swap_or_not(len(images[c]), hashed(seed, 2, c, lap)))

    streams = [own_stream(c) for c in range(len(classes))]
    for cycle in count():
        for c in sorted_bits(len(classes), seed, 1, cycle):
            yield from islice(streams[c], images_per_class)


def run_through(sampler, steps):
    return np.concatenate([sampler.indices(step) for step in range(steps)])


label_lists = st.lists(st.integers(0, 9), min_size=1, max_size=60)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(label_lists, seeds, st.integers(1, 20))
def test_uniform_order_is_the_stream_of_sorted_philox_bits(labels, seed, global_batch):
    sampler = UniformSampler(np.array(labels), global_batch, seed)
    expected = list(islice(uniform_stream(labels, seed), 5 * global_batch))
    assert run_through(sampler, 5).tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 40), seeds, st.integers(1, 100))
def test_every_epoch_holds_each_image_once(num_images, seed, global_batch):
    sampler = UniformSampler(np.zeros(num_images, np.int64), global_batch, seed)
    drawn = run_through(sampler, math.ceil(3 * num_images / global_batch))
    for epoch in drawn[: 3 * num_images].reshape(3, num_images):
        assert sorted(epoch) == list(range(num_images))


def test_epochs_and_seeds_have_orders_of_their_own():
    labels = np.zeros(1000, np.int64)
    first, second = (UniformSampler(labels, 1000, seed=3).indices(step) for step in (0, 1))
    other = UniformSampler(labels, 1000, seed=4).indices(0)
    for order in (first, second, other):  # a random order keeps 1 place in 1000
        assert np.sum(order == np.arange(1000)) < 10
    assert np.sum(first == second) < 10
    assert np.sum(first == other) < 10


@settings(deadline=None)
@given(label_lists, seeds, st.integers(1, 5), st.integers(1, 6))
def test_class_aware_order_is_the_order_dealt_by_hand(labels, seed, images_per_class, groups):
    sampler = ClassAwareSampler(np.array(labels), images_per_class * groups, seed, images_per_class)
    expected = list(islice(class_aware_stream(labels, seed, images_per_class), 6 * images_per_class * groups))
    assert run_through(sampler, 6).tolist() == expected


@settings(deadline=None)
@given(label_lists, seeds, st.integers(1, 5))
def test_every_class_once_per_cycle_and_every_image_once_per_cycle_of_its_class(labels, seed, images_per_class):
    labels = np.array(labels)
    present = np.unique(labels)
    sampler = ClassAwareSampler(labels, images_per_class * len(present), seed, images_per_class)
    drawn = run_through(sampler, 12)
    groups = labels[drawn].reshape(12, len(present), images_per_class)
    assert (groups == groups[:, :, :1]).all()
    for cycle in groups[:, :, 0]:
        assert sorted(cycle) == list(present)
    for label in present:
        own = drawn[labels[drawn] == label]
        size = np.sum(labels == label)
        for lap in own[: len(own) // size * size].reshape(-1, size):
            assert sorted(lap) == list(np.flatnonzero(labels == label))


@settings(deadline=None)
@given(seeds, st.integers(0, 10**7))
def test_any_step_can_be_asked_for_first(seed, step):
    labels = np.arange(50) % 7
    for make in (UniformSampler, ClassAwareSampler):
        fresh, used = make(labels, 24, seed), make(labels, 24, seed)
        used.indices(step + 3), used.indices(0)
        assert fresh.indices(step).tolist() == used.indices(step).tolist()


@given(st.integers(1, 50), st.integers(1, 20))
def test_one_pass_in_order_filled_up_with_the_last_image(size, global_batch):
    sampler = SequentialSampler(size, global_batch)
    drawn = run_through(sampler, sampler.steps)
    positions = np.concatenate([sampler.positions(step) for step in range(sampler.steps)])
    assert drawn[positions < size].tolist() == list(range(size))
    assert (drawn[positions >= size] == size - 1).all()
    assert size <= len(drawn) < size + global_batch


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_together_hold_the_global_batch(world_size):
    sampler = ClassAwareSampler(np.arange(200) % 17, 24, seed=5)
    for step in range(10):
        indices, seeds_ = sampler.indices(step), augmentation_seeds(5, step, 24)
        parts = [local(indices, rank, world_size, sampler.group) for rank in range(world_size)]
        assert np.concatenate(parts).tolist() == indices.tolist()
        assert np.concatenate([local(seeds_, r, world_size, 4) for r in range(world_size)]).tolist() == seeds_.tolist()
        for part in parts:
            assert (np.ptp((part % 17).reshape(-1, 4), axis=1) == 0).all()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_a_small_class_are_equally_frequent(n):
    trials = 24_000
    keys = np.array([hashed(11, i) for i in range(trials)], np.uint64)[:, None]
    orders = Counter(map(tuple, _shuffled(np.tile(np.arange(n), (trials, 1)), np.full((1, 1), n), keys)))
    expected = trials / math.factorial(n)
    assert len(orders) == math.factorial(n)
    chi2 = sum((seen - expected) ** 2 / expected for seen in orders.values())
    freedom = len(orders) - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_the_shuffle_is_a_permutation_and_the_same_as_by_hand(n):
    keys = np.array([[3], [2**64 - 1]], np.uint64)
    orders = _shuffled(np.tile(np.arange(n), (2, 1)), np.full((1, 1), n), keys)
    for order, key in zip(orders, keys[:, 0], strict=True):
        assert sorted(order) == list(range(n))
        assert order.tolist() == swap_or_not(n, int(key))


def test_uniforms_are_splitmix64_with_53_bits():
    seeds_ = np.array([0, 1, 2**64 - 1, 1234567], np.uint64)
    drawn = uniforms(seeds_, 5)
    by_hand = [[(splitmix((int(s) + j * GOLDEN) & MASK) >> 11) / 2**53 for j in range(5)] for s in seeds_]
    assert drawn.dtype == np.float64
    assert drawn.tolist() == by_hand
    # published first outputs of splitmix64 for seed 1234567
    assert [splitmix((1234567 + j * GOLDEN) & MASK) for j in range(2)] == [6457827717110365317, 3203168211198807973]


def test_uniforms_of_neighbouring_positions_steps_and_seeds_look_independent():
    per_seed = 64 * 400
    seeds_ = np.concatenate([augmentation_seeds(seed, step, 64) for seed in (0, 1) for step in range(400)])
    assert len(np.unique(seeds_)) == 2 * per_seed
    u = uniforms(seeds_, 8)
    assert u.min() >= 0
    assert u.max() < 1
    assert np.all(np.abs(u.mean(0) - 0.5) < 4 / math.sqrt(12 * len(u)))
    for column in u.T:
        chi2 = np.sum((np.bincount((column * 100).astype(int), minlength=100) - len(u) / 100) ** 2) / (len(u) / 100)
        assert chi2 < 99 + 4 * math.sqrt(2 * 99)
    limit = 5 / math.sqrt(per_seed)
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < limit  # the draws of one image
    for shift in (1, 64, per_seed):  # the next image, the same position a step later, another run
        assert abs(np.corrcoef(u[:-shift, 0], u[shift:, 0])[0, 1]) < limit


def test_augmentation_seeds_do_not_depend_on_the_size_of_the_batch():
    assert augmentation_seeds(9, 4, 128)[:48].tolist() == augmentation_seeds(9, 4, 48).tolist()
    assert augmentation_seeds(9, 4, 3).tolist() == [hashed(9, 3, 4, i) for i in range(3)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: UniformSampler(np.zeros(0, np.int64), 8, 0), "no images"),
        (lambda: UniformSampler(np.zeros(3, np.int64), 0, 0), "global batch 0"),
        (lambda: ClassAwareSampler(np.zeros(3, np.int64), 30, 0), "30 is not made of whole groups of 4"),
        (lambda: ClassAwareSampler(np.array([0, 2, 2, 4]), 4, 0, num_classes=6), r"class 1 has no image \(3 of 6"),
        (lambda: ClassAwareSampler(np.array([0, 1, 2]), 4, 0, num_classes=2), "label 2 is outside"),
        (lambda: ClassAwareSampler(np.array([-1, 0, 1]), 4, 0, num_classes=2), "label -1 is outside"),
        (lambda: local(np.arange(128), 0, 3), "128 cannot be shared alike by 3 ranks: make it a multiple of 3"),
        (lambda: local(np.arange(24), 0, 4, group=4), "24 cannot .* groups of 4: make it a multiple of 16"),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 99), st.integers(0, 99), st.data())
def test_stand_ins_are_the_rest_of_the_class_then_all_others_each_once(labels, step, position, data):
    labels = np.array(labels)
    image = data.draw(st.integers(0, len(labels) - 1))
    found = list(stand_ins(labels, image, 3, step, position))
    own = set(np.flatnonzero(labels == labels[image]).tolist()) - {image}
    assert set(found[: len(own)]) == own
    assert sorted([*found, image]) == list(range(len(labels)))
    assert found == list(stand_ins(labels, image, 3, step, position))


def test_stand_ins_are_drawn_evenly():
    labels = np.zeros(6, np.int64)
    first = [next(stand_ins(labels, 2, 3, step, position)) for step in range(60) for position in range(10)]
    counts = np.bincount(first, minlength=6)
    assert counts[2] == 0
    assert (np.delete(counts, 2) > 80).all()  # 120 each on average
