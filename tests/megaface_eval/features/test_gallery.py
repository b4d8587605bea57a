"""Nested galleries."""

import numpy as np
import pytest
from small_sets import set_of

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery, nested_sizes, parse_size


@pytest.fixture
def features():
    return set_of(np.random.default_rng(0).standard_normal((500, 6)))


@pytest.mark.parametrize(
    "text, size", [("10", 10), ("1K", 1000), ("2.5k", 2500), ("100K", 100_000), ("1M", 10**6), ("7", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1G", "1.5", "1.0005K", "ten", "1 000"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="expected a number of distractors"):
        parse_size(text)


@pytest.mark.parametrize(
    "largest, sizes",
    [(1, [1]), (10, [10]), (11, [10, 11]), (1000, [10, 100, 1000]), (10**6, [10, 100, 1000, 10**4, 10**5, 10**6])],
)
def test_nested_sizes(largest, sizes):
    assert nested_sizes(largest) == sizes


def test_file_order_takes_the_first_rows(features):
    gallery = Gallery(features, [10, 100, 400])
    assert gallery.places.tolist() == list(range(400))
    np.testing.assert_array_equal(gallery.read(5, 20), normalise(features.stored.read(5, 20)))


def test_seeded_sets_are_nested_and_drawn_from_everywhere(features):
    small, large = Gallery(features, [10, 100], seed=4), Gallery(features, [10, 100, 400], seed=4)
    assert set(small.places[:10]) == set(large.places[:10])
    assert set(small.places) == set(large.places[:100])
    assert len(set(large.places.tolist())) == 400
    assert large.places[:100].max() > 400
    np.testing.assert_array_equal(large.read(3, 50), normalise(features.stored.take(large.places[3:50])))


@pytest.mark.parametrize("seed", [None, 2])
def test_blocks_cover_every_place_once_and_never_cross_a_size(features, seed):
    gallery = Gallery(features, [10, 100, 400], seed=seed)
    spans = gallery.spans(64)
    assert [place for start, stop, _ in spans for place in range(start, stop)] == list(range(400))
    for start, stop, segment in spans:
        assert gallery.sizes[segment] >= stop
        assert segment == 0 or gallery.sizes[segment - 1] <= start
    for block in gallery.blocks(spans):
        np.testing.assert_array_equal(block.unit_BD, gallery.read(block.start, block.start + len(block.unit_BD)))


def test_dropped_rows_leave_their_size_smaller(features):
    dropped = np.zeros(500, bool)
    dropped[[3, 50, 60, 450]] = True
    gallery = Gallery(features, [10, 100, 400], dropped=dropped)
    assert gallery.ends.tolist() == [9, 97, 397]
    assert not set(gallery.places.tolist()) & {3, 50, 60, 450}


def test_rows_are_extended_as_they_are_read(features):
    def extend(rows):
        return np.hstack([rows, rows[:, :1] * 2])

    gallery = Gallery(features, [100], seed=1, extend=extend)
    np.testing.assert_array_equal(gallery.read(20, 40), extend(Gallery(features, [100], seed=1).read(20, 40)))


def test_a_gallery_smaller_than_asked_is_refused(features):
    with pytest.raises(InputError, match="500 distractors, fewer than the gallery of 1000 asked for"):
        Gallery(features, [10, 1000])


def test_an_error_while_reading_ahead_reaches_the_caller(features):
    features.stored.values[300] = np.nan
    with pytest.raises(InputError, match="row 300"):
        list(Gallery(features, [400]).blocks(Gallery(features, [400]).spans(50)))


def test_a_gallery_of_noise_alone_is_refused():
    with pytest.raises(InputError, match="all 3 distractors are noise"):
        Gallery(set_of(np.eye(4)), [3], dropped=np.array([True, True, True, False]))
