"""Which classes take part: own ones always, others at the rate, the same at any number of ranks."""

import dense
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facelt.head.class_sampling import choose
from facelt.parallel.partition import Partition


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(4, 60), st.floats(0.01, 0.99), st.integers(0, 9), st.data())
def test_the_same_classes_at_any_number_of_ranks(K, rate, seed, data):
    labels = torch.tensor(data.draw(st.lists(st.integers(0, K - 1), min_size=1, max_size=8)))
    whole = choose(Partition(K), labels, rate, generator(seed))
    for ranks in (2, 3, 4):
        parts = [Partition(K, rank, ranks) for rank in range(ranks)]
        got = torch.cat([choose(p, labels, rate, generator(seed)) + p.start for p in parts])
        assert torch.equal(got, whole)
    assert set(labels.tolist()) <= set(whole.tolist())
    assert torch.equal(whole, whole.unique())


def test_others_take_part_at_the_rate():
    got = choose(Partition(100_000), torch.tensor([7]), 0.1, generator(0))
    assert len(got) == pytest.approx(10_000, rel=0.03)
    other = choose(Partition(100_000), torch.tensor([7]), 0.1, generator(1))
    # Two steps' samples have as many classes in common as if neither knew of the other.
    assert len(set(got.tolist()) & set(other.tolist())) == pytest.approx(1000, rel=0.12)


@given(st.integers(1, 80), st.floats(0, 0.99), st.integers(0, 99))
def test_is_what_the_hash_says(K, rate, seed):
    want = dense.taking(K, rate, generator(seed))
    want[0] = True
    assert torch.equal(choose(Partition(K), torch.tensor([0]), rate, generator(seed)), torch.nonzero(want).squeeze(1))


def test_all_do_at_rate_1():
    assert choose(Partition(5), torch.tensor([0]), 1.0, generator(0)) is None
