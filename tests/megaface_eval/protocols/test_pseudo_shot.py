"""Counts of similar training images, and the buckets."""

import numpy as np
import pytest
from small_sets import set_of

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import normalise
from megaface_eval.protocols.pseudo_shot import (
    bucket_masks,
    bucket_titles,
    count_similar,
    parse_bounds,
    quantile_threshold,
)
from megaface_eval.search.ranks import Search


def test_counts_equal_the_full_table():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 12))
    train = centres[rng.integers(6, size=300)] + 0.6 * rng.standard_normal((300, 12))
    probes = centres[rng.integers(6, size=40)] + 0.6 * rng.standard_normal((40, 12))
    table = normalise(probes.astype(np.float32)).astype(float) @ normalise(train.astype(np.float32)).astype(float).T
    for threshold in (0.7, 0.3, -0.2):
        counts = count_similar(set_of(probes), set_of(train), threshold, Search())
        np.testing.assert_array_equal(counts, (table > threshold).sum(axis=1))


def test_similar_means_strictly_above():
    probe = set_of([[1, 0]])
    train = set_of([[1, 0], [1, 0], [0, 1], [3, 4]])
    assert count_similar(probe, train, 1.0, Search()).tolist() == [0]
    assert count_similar(probe, train, np.nextafter(1.0, 0), Search()).tolist() == [2]
    assert count_similar(probe, train, 0.0, Search()).tolist() == [3]


def test_buckets_share_out_every_probe_once():
    counts = np.array([0, 1, 2, 3, 4, 5, 6, 900])
    masks = bucket_masks(counts)
    assert {key: counts[mask].tolist() for key, mask in masks.items()} == {
        "many": [5, 6, 900], "few": [2, 3, 4], "one": [1], "zero": [0],
    }  # fmt: skip
    masks = bucket_masks(counts, (6, 4, 2))
    assert {key: counts[mask].tolist() for key, mask in masks.items()} == {
        "many": [6, 900], "few": [4, 5], "one": [2, 3], "zero": [0, 1],
    }  # fmt: skip


def test_titles_state_the_bounds():
    assert list(bucket_titles().values()) == ["Many ≥5", "Few 2–4", "One 1", "Zero 0"]
    assert list(bucket_titles((6, 4, 2)).values()) == ["Many ≥6", "Few 4–5", "One 2–3", "Zero 0–1"]


@pytest.mark.parametrize("text", ["5,2", "2,5,1", "5,2,0", "a,b,c", "5,5,1", ""])
def test_bounds_that_make_no_buckets_are_refused(text):
    with pytest.raises(InputError, match="three falling numbers"):
        parse_bounds(text)


def test_a_quantile_is_that_of_all_pairs_where_the_sample_holds_them_all():
    rng = np.random.default_rng(1)
    probes, train = rng.standard_normal((30, 6)), rng.standard_normal((70, 6))
    table = normalise(probes.astype(np.float32)).astype(float) @ normalise(train.astype(np.float32)).astype(float).T
    threshold = quantile_threshold(set_of(probes), set_of(train), 0.9)
    assert threshold == pytest.approx(np.quantile(table, 0.9), abs=1e-12)
    assert count_similar(set_of(probes), set_of(train), threshold, Search()).sum() == (table > threshold).sum()


def test_unequal_dimensions_are_refused():
    with pytest.raises(InputError, match="has 2 dimensions and set 3"):
        count_similar(set_of([[1, 0]]), set_of([[1, 0, 0]]), 0.7, Search())
