"""Decoding in one process and in many finds the same."""

import sets

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
    sizes = {row: (8 + row % 2, 8) for row in range(20)} | {4: "UnidentifiedImageError", 7: "OSError"}
    assert alone == sorted(sizes.items())
