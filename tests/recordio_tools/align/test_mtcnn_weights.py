"""LZ4 frames written by hand, and the wheel's own files."""

import hashlib
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.align import mtcnn_weights
from recordio_tools.align.mtcnn_weights import LAYERS, read_weights, unpack_lz4
from recordio_tools.errors import UserError

needs_mtcnn = pytest.mark.skipif(find_spec("mtcnn") is None, reason="the package mtcnn is not installed")


def frame(*blocks: tuple[bytes, bool]) -> bytes:
    """An LZ4 frame without checksums of blocks, each stored (True) or compressed."""
    sizes = [(len(block) | (stored << 31)).to_bytes(4, "little") + block for block, stored in blocks]
    return b"\x04\x22\x4d\x18\x40\x40\xc0" + b"".join(sizes) + bytes(4)


def test_literals_matches_and_stored_blocks():
    compressed = b"\x34abc\x03\x00" + b"\x10d"  # abc, then 4 + 4 bytes from 3 back, then d
    assert unpack_lz4(frame((compressed, False), (b"raw", True))) == b"abc" + b"abcabcab" + b"d" + b"raw"


@given(st.binary(min_size=16, max_size=700), st.integers(0, 600))
def test_long_lengths(literal, more):
    count, match = len(literal) - 15, more + 19
    lengths = b"\xff" * (count // 255) + bytes([count % 255])
    repeats = b"\xff" * (more // 255) + bytes([more % 255])
    block = b"\xff" + lengths + literal + b"\x01\x00" + repeats + b"\x00"
    assert unpack_lz4(frame((block, False))) == literal + literal[-1:] * match


@needs_mtcnn
@pytest.mark.parametrize("net, numbers", [("pnet", 6632), ("rnet", 100178), ("onet", 389040)])
def test_all_numbers_of_a_net_are_there(net, numbers):
    weights = read_weights(net)
    assert sum(array.size for array in weights.values()) == numbers  # what the paper's layers add up to
    assert all(np.isfinite(array).all() and array.std() > 0 for array in weights.values())
    assert weights["conv1.kernel"].shape == LAYERS[net]["conv1"]


@needs_mtcnn
def test_other_files_are_refused(monkeypatch):
    monkeypatch.setitem(mtcnn_weights.SHA256, "pnet", hashlib.sha256(b"another").hexdigest())
    with pytest.raises(UserError, match=r"pnet\.lz4: is not the file of mtcnn 1\.0\.0"):
        read_weights("pnet")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(mtcnn_weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed; run: pip install mtcnn==1\.0\.0 \(the extra `align`\)"):
        read_weights("pnet")
