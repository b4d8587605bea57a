"""Shards: balanced, complete, with whole identities on request."""

from itertools import pairwise

import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.shard import cut, shard


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.data())
def test_cuts_lie_nearest_to_equal_shares(sizes, data):
    shards = data.draw(st.integers(1, len(sizes)))
    edges = cut(np.array(sizes), shards).tolist()
    assert (edges[0], edges[-1], len(edges)) == (0, len(sizes), shards + 1)
    assert all(a < b for a, b in pairwise(edges))
    for number, edge in enumerate(edges[1:-1], 1):
        distance = [abs(sum(sizes[:at]) - sum(sizes) * number / shards) for at in range(len(sizes) + 1)]
        free = range(edges[number - 1] + 1, len(sizes) - (shards - number) + 1)
        assert distance[edge] == min(distance[at] for at in free)


def test_groups_are_not_cut():
    sizes = np.array([1, 1, 1, 9, 1, 1, 1, 1])
    groups = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    assert cut(sizes, 2, groups).tolist() == [0, 4, 8]
    assert cut(sizes, 4, groups).tolist() == [0, 3, 4, 6, 8]


@pytest.mark.parametrize("whole", [False, True])
def test_shards_hold_the_set(tmp_path, whole):
    labels = sets.random_labels(2, 50, 9)
    records = [
        (key, sets.payload(label, sets.jpeg(key), key))
        for key, label in enumerate(np.random.default_rng(0).permutation(labels))
    ]
    source = RecordDataset(sets.write(tmp_path / "set", records, "9,8,8", list("abcdefghi")))
    counts = shard(source, tmp_path / "out", 4, whole_identities=whole)
    parts = [RecordDataset(tmp_path / "out" / f"{number:05d}") for number in range(4)]
    assert counts == [len(part) for part in parts]
    assert all((part.num_classes, part.names, part.image_size) == (9, list("abcdefghi"), (8, 8)) for part in parts)
    found = [(label, part.jpeg(i).tobytes()) for part in parts for i, label in enumerate(part.labels.tolist())]
    assert sorted(found) == sorted((label, source.jpeg(i).tobytes()) for i, label in enumerate(source.labels.tolist()))
    kept_whole = sum(len(set(part.labels.tolist())) for part in parts) == 9
    assert kept_whole == whole
    assert max(len(part.data) for part in parts) < 1.6 * min(len(part.data) for part in parts)


@pytest.mark.parametrize(
    "shards, whole, words", [(0, False, "1 to 6, the number of images"), (3, True, "1 to 2, the number of id")]
)
def test_more_shards_than_there_is_to_share(tmp_path, shards, whole, words):
    source = RecordDataset(sets.write(tmp_path / "set", sets.insightface([0, 0, 0, 0, 3, 3])))
    with pytest.raises(RecordError, match=words):
        shard(source, tmp_path / "out", shards, whole_identities=whole)
    assert not (tmp_path / "out").exists()
