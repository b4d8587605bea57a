"""One pass: every image once and in order, at any number of ranks, the last batch filled up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from faces import write_faces
from ranks import run_ranks

from facelt.images.dali import Decoding
from facelt.images.one_pass import each_batch
from facelt.parallel import collectives
from recordio_tools.dataset import RecordDataset

N = 15  # 5 classes of 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("pass") / "data", images=3)


def passed(data: str, batch: int) -> dict:
    dataset = RecordDataset(Path(data))
    means = np.full(N, np.nan)
    seen = []
    decoding = Decoding(32, batch, torch.device("cpu"), threads=1)
    for part in each_batch(lambda images: images.mean((1, 2, 3)), dataset, decoding, "means"):
        assert part.output.shape == (batch,)
        output_G = collectives.gather(part.output).numpy()
        means[part.images_G[part.valid_G]] = output_G[part.valid_G]
        seen += part.images_G[part.valid_G].tolist()
    return {"means": means, "seen": seen}


@pytest.mark.parametrize("ranks, batch", [(1, 4), (1, 15), (2, 4), (3, 2)])
def test_every_image_once_and_in_order(data, ranks, batch):
    (want,) = run_ranks(1, passed, str(data), 5)
    for got in run_ranks(ranks, passed, str(data), batch):
        assert got["seen"] == list(range(N))
        np.testing.assert_allclose(got["means"], want["means"], atol=1e-6)
