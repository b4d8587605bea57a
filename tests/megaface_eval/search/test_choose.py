"""What `--search` means."""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from small_sets import set_of, unit_rows

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet, load_features, write_features
from megaface_eval.processes import Processes
from megaface_eval.search import choose, ranks
from megaface_eval.search.choose import SCANS, choose_scan, excerpt, time_scans
from megaface_eval.search.faiss_scan import FaissScan
from megaface_eval.search.prefix import PrefixScan
from megaface_eval.search.product import ProductScan
from megaface_eval.search.ranks import Excerpt

LARGE = 10**10  # rows of a gallery that a trial is worth


def sets(rng, queries=300, rows=3000, dimension=32) -> tuple[FeatureSet, FeatureSet]:
    return set_of(unit_rows(rng, queries, dimension), np.arange(queries) // 3), set_of(unit_rows(rng, rows, dimension))


def choose_here(search, size=LARGE):
    return choose_scan(search, *sets(np.random.default_rng(0)), size, Processes())


@pytest.fixture(autouse=True)
def torch_there(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: True)
    monkeypatch.setattr(choose, "gpus", lambda: 0)


def test_without_torch_only_the_prefix_is_certified(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_here("certified") == (PrefixScan, "certified prefix")
    with pytest.raises(InputError, match="needs torch"):
        choose_here("certified-int8")


@pytest.mark.parametrize("name", SCANS)
def test_a_named_search_is_taken_untried(name, monkeypatch):
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_here(name) == (SCANS[name], name.replace("-", " "))


@pytest.mark.parametrize("fastest", ["faiss", "certified-prefix", "certified-bfloat16", "certified-int8"])
def test_auto_takes_the_fastest_and_says_why(fastest, monkeypatch, capsys):
    seconds = {"faiss": 3.0, "certified-prefix": 4.0, "certified-bfloat16": 5.0, "certified-int8": 6.0, fastest: 2.0}
    monkeypatch.setattr(choose, "time_scans", lambda scans, searched: {name: seconds[name] for name in scans})
    scan, note = choose_here("auto")
    assert scan is SCANS[fastest]
    assert note.startswith(f"{fastest.replace('-', ' ')}, the fastest here (tried: ")
    for name, taken in seconds.items():
        assert (f"{name.replace('-', ' ')} {taken / 2:.2f} x" in note) == (name != fastest)
    assert capsys.readouterr().err == f"search: {note}\n"


def test_certified_leaves_faiss_out(monkeypatch):
    monkeypatch.setattr(choose, "time_scans", lambda scans, searched: {name: len(name) for name in scans})
    scan, note = choose_here("certified")
    assert scan is SCANS["certified-int8"]
    assert "faiss" not in note


def test_auto_is_faiss_where_it_sees_a_gpu(monkeypatch):
    monkeypatch.setattr(choose, "gpus", lambda: 1)
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_here("auto") == (FaissScan, "faiss")


def test_auto_does_not_try_what_is_over_sooner(monkeypatch):
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_here("auto", 1000) == (ProductScan, "product")


def test_a_row_that_cannot_be_read_in_the_trial_is_one_line(tmp_path):
    rows = unit_rows(np.random.default_rng(0), 50, 8)
    probes = set_of(rows, np.arange(50) // 2)
    broken = rows.copy()
    broken[7] = np.nan
    write_features(tmp_path / "broken", broken, np.zeros(50, int))
    with pytest.raises(InputError, match="row 7 holds NaN"):
        choose_scan("auto", probes, load_features(tmp_path / "broken"), LARGE, Processes())


def slow(scan, seconds):
    """A scan that takes so many seconds longer."""

    def make(queries_QD, scale=1.0):
        scanner = scan(queries_QD, scale)
        inner = type(scanner).__call__

        class Slow(type(scanner)):
            def __call__(self, *arguments):
                time.sleep(seconds)
                return inner(self, *arguments)

        scanner.__class__ = Slow
        return scanner

    return make


@pytest.mark.parametrize("seconds", [0.02, 0.5])  # within reach, and hopeless
def test_a_slow_scan_is_measured_as_slow(seconds):
    searched = excerpt(*sets(np.random.default_rng(1), 600, 9000), 10**6)
    searched = replace(searched, often_Q=np.zeros(600))  # or every query is scored densely, and no scan asked
    taken = time_scans({"usual": ProductScan, "slow": slow(ProductScan, seconds)}, searched)
    assert taken["usual"] > 0
    assert taken["slow"] >= seconds


def test_what_a_scan_leaves_to_others_counts_too(monkeypatch):
    searched = excerpt(*sets(np.random.default_rng(1), 600, 9000), 10**6)
    inner = ranks._Tally.add

    def add(self, *arguments):
        time.sleep(0.05)
        return inner(self, *arguments)

    monkeypatch.setattr(ranks._Tally, "add", add)
    assert time_scans({"product": ProductScan}, searched)["product"] >= 0.05


def test_an_excerpt_is_a_search_midway():
    rng = np.random.default_rng(2)
    probes, distractors = sets(rng, dimension=128)
    found = excerpt(probes, distractors, 10**6)
    unit = probes.unit(0, 300)
    table = unit.astype(float) @ unit.astype(float).T
    same = (probes.labels[:, None] == probes.labels) & ~np.eye(300, dtype=bool)
    np.testing.assert_allclose(found.low_Q, np.where(same, table, np.inf).min(axis=1), atol=1e-5)
    # as many rows above a query's best so far as a whole search meets on average: ln(1M / 1024) of a million
    above = (unit @ unit_rows(rng, 40_000, 128).T > found.best_Q[:, None]).mean() * 10**6
    assert 0.2 < above / np.log(10**6 / 1024) < 5


def test_an_excerpt_of_probes_without_mates_and_few_rows():
    rng = np.random.default_rng(3)
    found = excerpt(set_of(unit_rows(rng, 3, 8), np.arange(3)), set_of(unit_rows(rng, 2, 8)), 10**9)
    assert np.isinf(found.low_Q).all()
    assert isinstance(found.part(100), Excerpt)
    seconds = time_scans({"product": ProductScan, "certified-prefix": partial(PrefixScan, first=0)}, found)
    assert all(np.isfinite(one) for one in seconds.values())
