"""Which images fire which neuron, and their averages, against plain sorting of e ⊗ v_memory by hand."""

from io import BytesIO

import numpy as np
import pytest
import torch
from by_hand import see_by_hand
from PIL import Image

from facelt.errors import UserError
from facelt.figures import neurons
from facelt.figures.neurons import SIDE, Firing
from facelt.figures.opened import OpenedRun


@pytest.mark.parametrize("keep", [4, 999])
def test_the_images_that_fire_a_neuron(opened, meta_run, dataset, keep):
    want = see_by_hand(meta_run, dataset)
    values_ND = (want.e * want.memory).numpy()
    firing = neurons.scan(opened, dataset, keep, batch=7)
    T = min(keep, len(dataset))
    assert firing.most_TD.shape == firing.least_TD.shape == (T, 16)
    for d in range(16):
        order = np.sort(values_ND[:, d])
        assert values_ND[firing.most_TD[:, d], d] == pytest.approx(order[::-1][:T], abs=1e-3)
        assert values_ND[firing.least_TD[:, d], d] == pytest.approx(order[:T], abs=1e-3)
        assert len(set(firing.most_TD[:, d])) == T
    assert firing.mean_D == pytest.approx(values_ND.mean(0), abs=1e-3)
    assert firing.spread_D == pytest.approx(values_ND.std(0), rel=1e-2, abs=1e-4)
    assert set(firing.strongest(2)) == set(np.argsort(-values_ND.std(0))[:2].tolist())


def test_neurons_of_an_image_count_by_their_size_whatever_the_sign():
    assert neurons.top_neurons(np.array([0.1, -0.9, 0.5, 0.5]), 3) == [1, 2, 3]
    given = Firing(*[np.zeros((1, 4), int)] * 2, np.array([9.0, 0, 0, 0]), np.array([0.0, 1, 3, 2]))
    assert given.strongest(2) == [2, 3]  # the first adds the same to all


def test_the_average_of_images(dataset):
    files = [Image.open(BytesIO(dataset.jpeg(i).tobytes())) for i in (3, 8)]
    large = [np.asarray(one.resize((SIDE, SIDE), Image.Resampling.LANCZOS), float) for one in files]
    got = np.asarray(neurons.average(dataset, np.array([3, 8])))
    assert np.abs(got - (large[0] + large[1]) / 2).max() <= 0.5


def test_a_run_without_memory_has_no_neurons(meta_run, dataset):
    with pytest.raises(UserError, match=r"draw neurons: .*without a meta head"):
        neurons.scan(OpenedRun.of(meta_run / "plain", torch.device("cpu")), dataset, 4, 8)
