"""The contact sheet: its size, and what stands where."""

import numpy as np
import pytest
import sets
from PIL import Image

from recordio_tools.dataset import RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.format.recordio import RecordError
from recordio_tools.look.sheet import CAPTION, MARGIN, contact_sheet, spread, write_sheet


def test_spread():
    assert spread(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert spread(np.arange(3), 8).tolist() == [0, 1, 2]


def test_cells_show_the_images(tmp_path):
    shades = {1: 10, 2: 60, 3: 110, 4: 160, 5: 210}
    labels = {1: 0, 2: 0, 3: 0, 4: 1, 5: 2}
    records = [(key, sets.payload(labels[key], sets.jpeg(shade))) for key, shade in shades.items()]
    records[3] = (4, sets.payload(1, b"no picture"))
    ds = RecordDataset(sets.write(tmp_path, records, "3,8,8"))
    sheet = np.asarray(contact_sheet(ds, rows=2, columns=2, cell=20))
    assert sheet.shape == (2 * (20 + MARGIN + CAPTION) + MARGIN, 2 * (20 + MARGIN) + MARGIN, 3)
    top, below = CAPTION + 10, CAPTION + 10 + 20 + MARGIN + CAPTION
    left, right = MARGIN + 10, MARGIN + 10 + 20 + MARGIN
    for (y, x), shade in {(top, left): 10, (top, right): 60, (below, left): 210, (below, right): 255}.items():
        assert abs(sheet[y - 5 : y + 5, x - 5 : x + 5].astype(int) - shade).max() <= 2
    every = np.asarray(contact_sheet(ds, rows=3, columns=1, cell=20))
    assert (every[below, left] == 128).all()


def test_written_file(tmp_path):
    ds = RecordDataset(sets.write(tmp_path / "s", sets.insightface([0, 1])))
    write_sheet(ds, tmp_path / "x.png", rows=1, columns=1, cell=30)
    assert Image.open(tmp_path / "x.png").size == (30 + 2 * MARGIN, 30 + 2 * MARGIN + CAPTION)
    with pytest.raises(UserError, match="exists already"):
        write_sheet(ds, tmp_path / "x.png")
    with pytest.raises(RecordError, match="0 rows"):
        write_sheet(ds, tmp_path / "y.png", rows=0)
