"""Records copied as bytes against records written anew."""

import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.rewrite import copying
from recordio_tools.rewrite.copying import copy_images, gather


@given(st.data(), st.sampled_from([0, 8, 10**6]))
def test_gather_is_slices_behind_each_other(data, short_run):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=20))
    edges = np.concatenate([[0], np.cumsum([size + -size % 4 for size in sizes])])
    end = edges[-1] - data.draw(st.integers(0, 3))
    content = np.random.default_rng(0).integers(0, 256, end).astype(np.uint8)
    rows = np.array(data.draw(st.permutations(range(len(sizes))))[: data.draw(st.integers(1, len(sizes)))])
    copying.SHORT_RUN, before = short_run, copying.SHORT_RUN
    try:
        buffer, starts = gather(content, edges[rows], np.minimum(edges[rows + 1], end))
    finally:
        copying.SHORT_RUN = before
    slices = [content[edges[row] : edges[row + 1]].tobytes() for row in rows]
    slices = [piece + bytes(-len(piece) % 4) for piece in slices]
    assert buffer.tobytes() == b"".join(slices)
    assert starts.tolist() == np.cumsum([0, *map(len, slices[:-1])]).tolist()


@pytest.mark.parametrize("system", ["writes all", "writes some", "has no writev"])
def test_slices_are_written_behind_each_other(tmp_path, monkeypatch, system):
    monkeypatch.setattr(copying, "MOST_SLICES", 7)
    writev = copying.os.writev
    if system == "writes some":
        monkeypatch.setattr(copying.os, "writev", lambda fd, pieces: writev(fd, pieces[: len(pieces) // 2]))
    elif system == "has no writev":
        monkeypatch.delattr(copying.os, "writev")
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 30) * 4
    edges = np.concatenate([[0], np.cumsum(sizes)])
    content = rng.integers(0, 256, edges[-1] - 3).astype(np.uint8)
    rows = rng.permutation(30)
    with open(tmp_path / "out", "wb") as file:
        file.write(b"before")
        copying.write_slices(file, content, edges[rows], sizes[rows])
        file.write(b"after")
    padded = content.tobytes() + bytes(3)
    expected = b"".join(padded[edges[row] : edges[row + 1]] for row in rows)
    assert (tmp_path / "out").read_bytes() == b"before" + expected + b"after"


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
@pytest.mark.parametrize("vector", [False, True])
def test_a_copy_is_what_adding_each_image_writes(tmp_path, monkeypatch, chunk, vector):
    monkeypatch.setattr(copying, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(chunk)
    records = []
    for key in range(60):
        image = sets.MAGIC * (key % 5 == 0) + rng.bytes(int(rng.integers(1, 60)))
        label = [float(key % 7), 0.25, float(key)] if vector else key % 7
        records.append((key, sets.payload(label, image, 0xCED7230A if key % 11 == 0 else key)))
    rng.shuffle(records)
    source = RecordDataset(sets.write(tmp_path / "source", records, "7,8,8"))
    rows = rng.permutation(60)[:41]
    labels = rng.integers(0, 9, 41)
    with DatasetWriter(tmp_path / "copy", 9, (8, 8)) as writer:
        copy_images(source, rows, labels, writer)
    with DatasetWriter(tmp_path / "twin", 9, (8, 8)) as writer:
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            label = [label, *source.record(row)[0].label[1:]] if vector else label
            writer.add(source.jpeg(row).tobytes(), label)
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "twin" / name).read_bytes()
