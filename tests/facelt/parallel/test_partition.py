"""Which rank owns which classes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facelt.parallel.partition import Partition


@given(st.integers(1, 60), st.integers(1, 12))
def test_every_class_has_one_owner_and_shares_differ_by_one_at_most(classes, ranks):
    if ranks > classes:
        with pytest.raises(ValueError, match=f"{classes} classes cannot be shared by {ranks} ranks"):
            Partition(classes, 0, ranks)
        return
    parts = [Partition(classes, rank, ranks) for rank in range(ranks)]
    assert [k for p in parts for k in range(*p.bounds())] == list(range(classes))
    sizes = [p.size for p in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 5))
def test_labels_find_their_owner_and_local_number(labels, ranks):
    labels = torch.tensor(labels, dtype=torch.int64)
    found = {}
    for rank in range(ranks):
        part = Partition(13, rank, ranks)
        positions, local = part.own(labels)
        found |= {p: part.start + k for p, k in zip(positions.tolist(), local.tolist(), strict=True)}
    assert found == dict(enumerate(labels.tolist()))
