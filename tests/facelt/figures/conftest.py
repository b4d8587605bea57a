"""A small set and runs of random weights on it; makes `by_hand` importable."""

import sys
from pathlib import Path

import pytest
import torch
from faces import write_faces
from runs import write_random_run

from facelt.figures.opened import OpenedRun
from recordio_tools.dataset import RecordDataset

sys.path.insert(0, str(Path(__file__).parent))

K = 5


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> Path:
    return write_faces(tmp_path_factory.mktemp("figures") / "train", classes=K, images=6)


@pytest.fixture(scope="session")
def dataset(train) -> RecordDataset:
    return RecordDataset(train)


@pytest.fixture(scope="session")
def meta_run(tmp_path_factory) -> Path:
    """With a last map of 4 x 4 positions."""
    folder = tmp_path_factory.mktemp("figures") / "run"
    return write_random_run(folder, K, backbone={"name": "resnet10", "width": 8, "stem": "face"})


@pytest.fixture(scope="session")
def opened(meta_run) -> OpenedRun:
    return OpenedRun.of(meta_run, torch.device("cpu"))
