"""Maps of attention by hand, and where they lie over an image."""

import numpy as np
import pytest
import torch
from by_hand import see_by_hand
from PIL import Image
from runs import write_random_run

from facelt.errors import UserError
from facelt.figures import attention
from facelt.figures.opened import OpenedRun


def test_maps_by_hand(opened, meta_run, dataset):
    want = see_by_hand(meta_run, dataset)
    found = attention.maps(opened, dataset, batch=7)
    assert found.spatial_NHW.shape == (30, 4, 4)
    assert found.spatial_NHW == pytest.approx(want.spatial.numpy(), abs=1e-4)
    assert found.spatial_NHW.sum((1, 2)) == pytest.approx(np.ones(30), abs=1e-5)
    assert found.share_N == pytest.approx(want.share.numpy(), rel=1e-3)


def test_a_map_lies_over_its_image_the_right_way_round():
    grey = Image.new("RGB", (30, 30), (90, 90, 90))
    spatial = np.zeros((2, 2))
    spatial[0, 1] = 1  # above, at the right
    shown = np.asarray(attention.overlay(grey, spatial, 40), float).sum(2)
    assert np.unravel_index(shown.argmax(), shown.shape)[0] < 20 <= np.unravel_index(shown.argmax(), shown.shape)[1]
    flat = np.asarray(attention.overlay(grey, np.full((2, 2), 0.25), 40))
    assert (flat == flat[0, 0]).all()


def test_a_run_without_attention_is_refused(tmp_path, dataset):
    run = write_random_run(tmp_path / "run", 5, head={"attention": False})
    with pytest.raises(UserError, match="has no attention"):
        attention.maps(OpenedRun.of(run, torch.device("cpu")), dataset, 8)
