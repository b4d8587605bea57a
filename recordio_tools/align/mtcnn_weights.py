"""Weights of MTCNN's three nets from the files of the PyPI package mtcnn 1.0.0 (MIT), which is not imported.

Its import loads TensorFlow, and its files are pickles, which can run code. They are known by their SHA-256, and of them
only the arrays are read: an LZ4 frame of a joblib pickle, in which each array stands behind the build opcode of its
wrapper, a byte that counts the padding, and the padding.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from recordio_tools.errors import UserError

INSTALL = "run: pip install mtcnn==1.0.0 (the extra `align`)"
SHA256 = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
# Layers in the order of the files: (height, width, inputs, outputs) of a convolution, (inputs, outputs) of a dense
# layer. Each is a kernel and a bias; a slope for each output of the hidden ones follows.
LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "pnet": {
        "conv1": (3, 3, 3, 10),
        "conv2": (3, 3, 10, 16),
        "conv3": (3, 3, 16, 32),
        "box": (1, 1, 32, 4),
        "face": (1, 1, 32, 2),
    },
    "rnet": {
        "conv1": (3, 3, 3, 28),
        "conv2": (3, 3, 28, 48),
        "conv3": (2, 2, 48, 64),
        "dense": (576, 128),
        "box": (128, 4),
        "face": (128, 2),
    },
    "onet": {
        "conv1": (3, 3, 3, 32),
        "conv2": (3, 3, 32, 64),
        "conv3": (3, 3, 64, 64),
        "conv4": (2, 2, 64, 128),
        "dense": (1152, 256),
        "box": (256, 4),
        "points": (256, 10),
        "face": (256, 2),
    },
}
OUTPUTS = ("box", "points", "face")
_ARRAY = b"K\x10ub"  # alignment 16, end of the wrapper's state, build


def read_weights(net: str) -> dict[str, np.ndarray]:
    """Arrays of `pnet`, `rnet` or `onet`, float32, by `LAYER.kernel`, `LAYER.bias` and `LAYER.slope`.

    Kernels are as in the files: height, width, inputs, outputs. Raises UserError where the package is not installed or
    its files are others.
    """
    spec = find_spec("mtcnn")
    if spec is None or spec.origin is None:
        raise UserError(f"MTCNN's weights come with the package mtcnn, which is not installed; {INSTALL}")
    file = Path(spec.origin).parent / "assets" / "weights" / f"{net}.lz4"
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256[net]:
        raise UserError(f"{file}: is not the file of mtcnn 1.0.0; {INSTALL}")
    stream, at, arrays = unpack_lz4(content), 0, {}
    for layer, shape in LAYERS[net].items():
        parts = {"kernel": shape, "bias": shape[-1:]}
        if layer not in OUTPUTS:
            parts["slope"] = shape[-1:]
        for part, size in parts.items():
            at = stream.index(_ARRAY, at) + len(_ARRAY)
            at += 1 + stream[at]
            count = int(np.prod(size))
            arrays[f"{layer}.{part}"] = np.frombuffer(stream, "<f4", count, at).reshape(size).copy()
            at += 4 * count
    return arrays


def unpack_lz4(frame: bytes) -> bytes:
    """The content of an LZ4 frame that is whole; its checksums are not looked at (LZ4 frame format 1.6)."""
    flags = frame[4]
    at = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    content = bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        at += 4
        stored, size = size >> 31, size & 0x7FFFFFFF
        if stored:
            content += frame[at : at + size]
        else:
            _unpack_block(frame[at : at + size], content)
        at += size + (4 if flags & 0x10 else 0)
    return bytes(content)


def _unpack_block(block: bytes, content: bytearray) -> None:
    """Append a block's sequences: literals, then a match that repeats what stands `back` bytes before."""
    at = 0

    def length(nibble: int) -> int:
        nonlocal at
        total, more = nibble, nibble == 15
        while more:
            total += block[at]
            more = block[at] == 255
            at += 1
        return total

    while True:
        token = block[at]
        at += 1
        literals = length(token >> 4)
        content += block[at : at + literals]
        at += literals
        if at >= len(block):
            return
        back = int.from_bytes(block[at : at + 2], "little")
        at += 2
        match = length(token & 15) + 4
        repeated = bytes(content[-back:])
        content += (repeated * (match // back + 1))[:match]
