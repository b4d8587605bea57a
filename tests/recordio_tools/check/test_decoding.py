"""Decoding in one process and in many finds the same."""

from io import BytesIO

import pytest
import sets
from PIL import Image

from recordio_tools.check import decoding
from recordio_tools.check.decoding import decode_all
from recordio_tools.dataset import RecordDataset


def test_results_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    records = [(key, sets.payload(0, sets.jpeg(key, (8 + key % 2, 8)))) for key in range(20)]
    records[4] = (4, sets.payload(0, b"no picture"))
    records[7] = (7, sets.payload(0, sets.jpeg(7)[:-100]))
    images = RecordDataset(sets.write(tmp_path, records, "1,8,8"))
    alone = list(decode_all(images))
    monkeypatch.setattr(decoding, "BATCH", 3)
    assert list(decode_all(images)) == alone
    sizes = {row: (8 + row % 2, 8) for row in range(20)} | {4: "not an image of a known format", 7: "OSError"}
    assert alone == sorted(sizes.items())


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "ICO"])
def test_what_pillow_reads_and_training_does_not_is_found(tmp_path, kind):
    content = BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 90)).save(content, kind)
    records = [(0, sets.payload(0, sets.jpeg(0, (8, 8)))), (1, sets.payload(0, content.getvalue()))]
    images = RecordDataset(sets.write(tmp_path, records, "1,8,8"))
    assert list(decode_all(images)) == [(0, (8, 8)), (1, f"{kind}, which training does not read")]
