"""The long-tail figure shows the figures it is given."""

import numpy as np
import pytest
import sets
from PIL import Image

from recordio_tools.dataset import RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.look.plots import draw_tails, tail, write_tails


@pytest.fixture
def source(tmp_path):
    records = [(key, sets.payload(label, b"jpeg")) for key, label in enumerate([0] * 5 + [2] * 150 + [3] * 30)]
    return RecordDataset(sets.write(tmp_path / "set", records, "9,8,8"))


def test_tail(source):
    figures = tail(source)
    assert (figures["images"], figures["identities"]) == (185, 3)
    assert (figures["many_shot"], figures["medium_shot"], figures["few_shot"]) == (1, 1, 1)
    assert figures["images_per_identity"] == [150, 30, 5]


def test_the_line_is_the_sorted_counts(source):
    axes = draw_tails([tail(source), tail(source)]).axes[0]
    assert len(axes.lines) == 2
    assert axes.lines[0].get_ydata().tolist() == [150, 30, 5, 5]
    assert axes.lines[0].get_xdata().tolist() == [0, 1, 2, 3]
    assert axes.get_yscale() == "log"
    assert "set: 185 images, 3 identities" in axes.get_legend().get_texts()[0].get_text()
    assert [text.get_text() for text in axes.get_legend().get_texts()[2:]] == [
        "many-shot, ≥ 100 images: 1 identities",
        "medium-shot: 1 identities",
        "few-shot, ≤ 20 images: 1 identities",
    ]


def test_written_file(tmp_path, source):
    write_tails([tail(source)], tmp_path / "tail.png")
    picture = np.asarray(Image.open(tmp_path / "tail.png").convert("RGB"))
    assert picture.shape[:2] == (675, 1200)
    assert (picture != 255).any(axis=2).mean() > 0.2
    with pytest.raises(UserError, match="exists already"):
        write_tails([tail(source)], tmp_path / "tail.png")
