"""An interrupted search goes on where it was, and ends with what an unbroken one finds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import set_of, unit_rows

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import load_features, write_features
from megaface_eval.features.gallery import Gallery
from megaface_eval.processes import Processes
from megaface_eval.search import kept, ranks
from megaface_eval.search.kept import Kept
from megaface_eval.search.prefix import PrefixScan
from megaface_eval.search.product import ProductScan
from megaface_eval.search.ranks import Search, Thresholds, count_above
from recordio_tools.errors import UserError

SIZES = [10, 100, 300]


class Interrupted(Exception):
    """What stands for a process that was killed."""


class Broken(Gallery):
    """A gallery whose reading ends after some blocks."""

    blocks_left = 0

    def blocks(self, spans):
        for number, block in enumerate(super().blocks(spans)):
            if number == self.blocks_left:
                raise Interrupted
            yield block


@pytest.fixture(autouse=True)
def at_every_block(monkeypatch):
    monkeypatch.setattr(kept, "SECONDS", 0)
    monkeypatch.setattr(ranks, "PILOT_ROWS", 5)


def made(rng, queries=12, dimension=16):
    q, x = unit_rows(rng, queries, dimension), unit_rows(rng, SIZES[-1], dimension)
    x[200:] = x[:100]  # ties across blocks
    query = rng.integers(queries, size=40)
    value = np.einsum("nd,nd->n", q[query].astype(float), x[rng.integers(SIZES[-1], size=40)].astype(float))
    return q, x, Thresholds.of(query, value, queries)[0]


def interrupt(q, thresholds, x, search, blocks):
    gallery = Broken(set_of(x), SIZES)
    gallery.blocks_left = blocks
    with pytest.raises(Interrupted):
        count_above(q, thresholds, gallery, search)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 9), st.sampled_from([ProductScan, PrefixScan]))
def test_a_search_interrupted_twice_finds_what_an_unbroken_one_does(tmp_path_factory, seed, blocks, other):
    q, x, thresholds = made(np.random.default_rng(seed))
    whole = count_above(q, thresholds, Gallery(set_of(x), SIZES), Search(block_rows=32))
    search = Search(block_rows=32, kept=Kept(tmp_path_factory.mktemp("kept") / "report.search", "a"))
    interrupt(q, thresholds, x, search, blocks)
    interrupt(q, thresholds, x, search, 1)
    found = count_above(q, thresholds, Gallery(set_of(x), SIZES), replace(search, scan=other))
    for name, expected in vars(whole).items():
        np.testing.assert_array_equal(getattr(found, name), expected, strict=True)


def test_blocks_that_are_counted_are_not_read_again(tmp_path):
    q, x, thresholds = made(np.random.default_rng(0))
    search = Search(block_rows=32, kept=Kept(tmp_path / "report.search", "a"))
    interrupt(q, thresholds, x, search, 4)
    read = []

    class Watched(Gallery):
        def blocks(self, spans):
            read.extend(spans)
            return super().blocks(spans)

    count_above(q, thresholds, Watched(set_of(x), SIZES), search)
    assert read == Gallery(set_of(x), SIZES).spans(32)[4:]
    read.clear()
    count_above(q, thresholds, Watched(set_of(x), SIZES), search)  # a whole search is kept whole
    assert read == []


@pytest.mark.parametrize("what", ["probes", "thresholds", "distractors", "order", "processes"])
def test_other_inputs_are_refused_in_one_line(what, tmp_path):
    rng = np.random.default_rng(0)
    q, x, thresholds = made(rng)
    search = Search(block_rows=32, kept=Kept(tmp_path / "report.search", "a"))
    interrupt(q, thresholds, x, search, 3)
    gallery = Gallery(set_of(x), SIZES)
    if what == "probes":
        q = unit_rows(rng, 12, 16)
    elif what == "thresholds":
        thresholds = replace(thresholds, inclusive=True)
    elif what == "distractors":
        x[123, 3] += 0.001
        gallery = Gallery(set_of(x), SIZES)
    elif what == "order":
        gallery = Gallery(set_of(x), SIZES, seed=1)
    else:
        search = replace(search, block_rows=64)
    said = {"order": "distractors", "processes": "numbers of processes or rows a block"}.get(what, what)
    with pytest.raises(InputError, match=f"^--resume: the interrupted search was of other {said}; .* remove .*search"):
        count_above(q, thresholds, gallery, search)


def test_a_file_that_was_written_again_is_refused(tmp_path):
    q, x, thresholds = made(np.random.default_rng(0))
    write_features(tmp_path / "x", x, np.zeros(len(x), int))
    search = Search(block_rows=32, kept=Kept(tmp_path / "report.search", "a"))
    count_above(q, thresholds, Gallery(load_features(tmp_path / "x"), SIZES), search)
    (tmp_path / "x/features.npy").touch()
    with pytest.raises(InputError, match="of other distractors"):
        count_above(q, thresholds, Gallery(load_features(tmp_path / "x"), SIZES), search)


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_file_is_one_line(damage, tmp_path):
    q, x, thresholds = made(np.random.default_rng(0))
    search = Search(block_rows=32, kept=Kept(tmp_path / "report.search", "a"))
    interrupt(q, thresholds, x, search, 3)
    (path,) = (tmp_path / "report.search").iterdir()
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"nothing of the kind"}[damage])
    with pytest.raises(InputError, match=r"npz: not readable as an interrupted search; restore it, or remove"):
        count_above(q, thresholds, Gallery(set_of(x), SIZES), search)


def test_a_file_in_the_folder_s_place_is_one_line(tmp_path):
    q, x, thresholds = made(np.random.default_rng(0))
    (tmp_path / "report.search").write_text("mine")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        count_above(q, thresholds, Gallery(set_of(x), SIZES), Search(kept=Kept(tmp_path / "report.search", "a")))


def test_searches_and_processes_are_kept_apart(tmp_path):
    one = Kept(tmp_path, "pseudo-shots")
    places = {one.path(0), one.path(1), one.named("method pseudo-shots").path(0), one.named("x/../y").path(0)}
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path}


def test_a_process_that_cannot_go_on_stops_the_others(tmp_path):
    class Two(Processes):
        def gather(self, value):
            return [value, InputError("the other's")]

    q, x, thresholds = made(np.random.default_rng(0))
    search = Search(processes=Two(0, 2), kept=Kept(tmp_path, "a"))
    with pytest.raises(InputError, match="the other's"):
        count_above(q, thresholds, Gallery(set_of(x), SIZES), search)
    assert list(tmp_path.iterdir()) == []
