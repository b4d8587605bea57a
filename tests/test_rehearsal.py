"""The dress rehearsal: its set keeps what it should, pictures come in turn, what is done is not done again."""

import json
from collections import Counter

import numpy as np
import pytest

from recordio_tools.dataset import RecordDataset
from recordio_tools.rewrite.curate import sample_images
from recordio_tools.sources.synthetic import write_synthetic
from tests.bench import rehearsal


def test_the_curated_set_has_the_size_of_the_missions():
    counts = rehearsal.tail(rehearsal.IMAGES, rehearsal.IDENTITIES)
    labels = np.repeat(np.arange(len(counts)), counts)
    kept = sample_images(labels, rehearsal.KEPT, "proportional", 0)
    assert counts.sum() == pytest.approx(rehearsal.IMAGES, rel=0.01)
    assert len(np.unique(labels[kept])) == pytest.approx(74_500, rel=0.005)


def test_pictures_come_in_turn(tmp_path):
    write_synthetic(tmp_path / "pictures", np.array([2, 2]), size=32, workers=1)
    rehearsal.repeated(tmp_path / "pictures", tmp_path / "set", np.array([5, 1]))
    pictures, images = RecordDataset(tmp_path / "pictures"), RecordDataset(tmp_path / "set")
    assert images.labels.tolist() == [0] * 5 + [1]
    drawn = [bytes(pictures.jpeg(row)) for row in range(4)]
    assert [drawn.index(bytes(images.jpeg(row))) for row in range(6)] == [0, 1, 0, 1, 0, 2]


def test_a_part_that_is_done_is_not_done_again_and_one_that_failed_is(tmp_path, monkeypatch):
    began: Counter = Counter()

    def part(name: str):
        def begin(self: rehearsal.Rehearsal) -> None:
            began[name] += 1
            if name == "curate" and began[name] == 1:
                raise OSError("no space")
            for output in rehearsal.OUTPUTS[name]:
                (self.folder / output).mkdir(parents=True)
                (self.folder / output / "file").write_bytes(bytes(7))

        return begin

    for name in rehearsal.OUTPUTS:
        monkeypatch.setattr(rehearsal.Rehearsal, name, part(name))
    with pytest.raises(OSError, match="no space"):
        rehearsal.run(tmp_path, 1, say=lambda line: None)
    done = rehearsal.run(tmp_path, 1, ["curate", "plain"], say=lambda line: None)
    assert list(done) == ["draw", "source", "curate", "plain"]
    assert began == {"draw": 1, "source": 1, "curate": 2, "plain": 1}
    assert all(cost[3] == 7 * len(rehearsal.OUTPUTS[name]) for name, cost in done.items())
    lines: list[str] = []
    rehearsal.run(tmp_path, 1, say=lines.append)
    assert set(began.values()) == {1, 2}
    assert len(lines) == len(rehearsal.OUTPUTS)
    assert json.loads((tmp_path / rehearsal.PARTS).read_text()).keys() == rehearsal.OUTPUTS.keys()
