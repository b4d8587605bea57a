"""What `--search` means."""

import time

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.processes import Processes
from megaface_eval.search import choose
from megaface_eval.search.choose import SCANS, choose_scan, time_scans
from megaface_eval.search.faiss_scan import FaissScan
from megaface_eval.search.prefix import PrefixScan
from megaface_eval.search.product import ProductScan


@pytest.fixture(autouse=True)
def torch_there(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: True)


def test_without_torch_only_the_prefix_is_certified(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_scan("certified", 32, 10**10, Processes()) == (PrefixScan, "certified prefix")
    with pytest.raises(InputError, match="needs torch"):
        choose_scan("certified-int8", 32, 10**10, Processes())


@pytest.mark.parametrize("name", SCANS)
def test_a_named_search_is_taken_untried(name, monkeypatch):
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_scan(name, 32, 10**10, Processes()) == (SCANS[name], name.replace("-", " "))


@pytest.mark.parametrize("share, wanted, note", [(0.9, PrefixScan, "certified prefix"), (1.2, FaissScan, "faiss")])
def test_auto_takes_the_faster_on_a_processor(share, wanted, note, monkeypatch):
    monkeypatch.setattr(choose, "gpus", lambda: 0)
    monkeypatch.setattr(choose, "time_scans", lambda scans, *size: dict.fromkeys(scans, share))
    scan, said = choose_scan("auto", 32, 10**10, Processes())
    assert scan is wanted
    assert said == f"{note} (tried here: product {share:.2f} x the time of FAISS)"


def test_auto_is_faiss_where_it_sees_a_gpu(monkeypatch):
    monkeypatch.setattr(choose, "gpus", lambda: 1)
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_scan("auto", 32, 10**10, Processes()) == (FaissScan, "faiss")


def test_auto_does_not_try_what_is_over_sooner(monkeypatch):
    monkeypatch.setattr(choose, "gpus", lambda: 0)
    monkeypatch.setattr(choose, "time_scans", None)
    assert choose_scan("auto", 32, 10**6, Processes()) == (ProductScan, "product")


@pytest.mark.parametrize("int8, wanted", [(0.6, "certified-int8"), (2.0, "certified-prefix")])
def test_certified_takes_the_faster_precision_if_it_is_faster_than_faiss(int8, wanted, monkeypatch):
    shares = {"certified-bfloat16": 3.0, "certified-int8": int8}
    monkeypatch.setattr(choose, "time_scans", lambda scans, *size: {name: shares[name] for name in scans})
    scan, said = choose_scan("certified", 32, 10**10, Processes())
    assert scan is SCANS[wanted]
    assert said.startswith(f"{wanted.replace('-', ' ')} (tried here: certified-bfloat16 3.00 x")


def test_a_slow_scan_is_measured_as_slow():
    class Slow(ProductScan):
        def __call__(self, *arguments):
            time.sleep(0.1)  # a hundred times what the search takes, whatever else the machine does
            return super().__call__(*arguments)

    shares = time_scans({"usual": ProductScan, "slow": Slow}, 64, queries=256, rows=2048)
    assert shares["slow"] > shares["usual"] > 0
    assert np.isfinite(list(shares.values())).all()
