"""Sets written plainly from the definition of the format, to compare with: no code of the product in it."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = bytes.fromhex("0a23d7ce")


def frame(payload: bytes) -> bytes:
    """One record, word by word."""
    parts, part = [], b""
    for at in range(0, len(payload), 4):
        word = payload[at : at + 4]
        if word == MAGIC:
            parts.append(part)
            part = b""
        else:
            part += word
    parts.append(part)
    framed = b""
    for number, part in enumerate(parts):
        if len(parts) == 1:
            flag = 0
        elif number == 0:
            flag = 1
        else:
            flag = 3 if number == len(parts) - 1 else 2
        framed += MAGIC + struct.pack("<I", flag * 2**29 + len(part)) + part
    while len(framed) % 4:
        framed += b"\0"
    return framed


def payload(label, image: bytes, identifier: int = 0) -> bytes:
    """An image record's payload: a number is a scalar label, a list a vector of labels."""
    if isinstance(label, list):
        return struct.pack(f"<IfQQ{len(label)}f", len(label), 0, identifier, 0, *label) + image
    return struct.pack("<IfQQ", 0, label, identifier, 0) + image


def jpeg(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A small grey JPEG, height × width."""
    stream = BytesIO()
    Image.new("RGB", size[::-1], (value % 256,) * 3).save(stream, "JPEG")
    return stream.getvalue()


def write(
    folder: Path, records: list[tuple[int, bytes]], stated: str | None = None, names: list[str] | None = None
) -> Path:
    """A data folder with (key, payload) records in this physical order; the index lists them in it too."""
    folder.mkdir(parents=True, exist_ok=True)
    rec, idx = b"", ""
    for key, content in records:
        idx += f"{key}\t{len(rec)}\n"
        rec += frame(content)
    (folder / "train.rec").write_bytes(rec)
    (folder / "train.idx").write_text(idx)
    if stated is not None:
        (folder / "property").write_text(stated)
    if names is not None:
        (folder / "names.txt").write_text("\n".join(names) + "\n")
    return folder


def insightface(labels: list[int], *, place: str = "first", vector: bool = False) -> list[tuple[int, bytes]]:
    """Records of a set with a header at `place` (first, middle, last, none) and identity records; labels ascending."""
    count, classes = len(labels), max(labels) + 1
    images = [
        (key, payload([float(label), 1.0] if vector else label, jpeg(key * 7), key))
        for key, label in enumerate(labels, 1)
    ]
    if place == "none":
        return images
    header = [(0, payload([count + 1.0, count + 1.0 + classes], b""))]
    ranges = []
    for label in range(classes):
        start = 1 + sum(own < label for own in labels)
        stop = start + labels.count(label)
        ranges.append((count + 1 + label, payload([float(start), float(stop)], b"", count + 1 + label)))
    return {
        "first": header + images + ranges,
        "middle": images + header + ranges,
        "last": images + ranges + header,
    }[place]


def random_labels(seed: int, images: int, classes: int) -> list[int]:
    """Ascending labels, at least one image per class."""
    drawn = np.random.default_rng(seed).integers(0, classes, images - classes)
    return sorted([*drawn.tolist(), *range(classes)])
