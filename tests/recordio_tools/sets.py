"""Sets written plainly from the definition of the format, to compare with: no code of the product in it."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

PUBLISHED = ("ImageNet-LT", "Places-LT", "SUN-LT")
MAGIC = bytes.fromhex("0a23d7ce")
LABELS = [0, 0, 0, 1, 2, 2, 4]  # of a small set: class 3 of 5 has no image
BROKEN = [
    *["no folder", "empty folder", "no index", "empty rec", "offset between records", "offset past the end"],
    *["negative offset", "key twice", "negative key", "malformed index", "truncated", "label outside", "label NaN"],
    *["label 1e30", "label -1", "label 1.5", "no image", "only ranges", "property words", "property empty"],
    *["property zero", "property short", "names missing", "names bytes", "header too long", "length 2^29-1"],
]


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


def published(form: str) -> list[tuple[str, int]]:
    """20 lines of a benchmark's list, as it is published: path and label, 4 classes of 8, 6, 4 and 2 images."""
    images = [(label, number) for label, count in enumerate((8, 6, 4, 2)) for number in range(1, count + 1)]
    match form:
        case "ImageNet-LT":
            classes = ["n01440764", "n01443537", "n01484850", "n01491361"]
            return [(f"{classes[label]}/{classes[label]}_{190 * number}.JPEG", label) for label, number in images]
        case "Places-LT":
            classes = ["a/airfield", "a/airplane_cabin", "b/bakery/shop", "z/zen_garden"]
            return [(f"/{classes[label]}/{number:08d}.jpg", label) for label, number in images]
        case "SUN-LT":
            classes = ["a/abbey", "a/airplane_cabin", "c/church/outdoor", "y/youth_hostel"]
            return [
                (f"{classes[label]}/sun_aaalbzqrimafw{'abcdefgh'[number - 1]}iv.jpg", label) for label, number in images
            ]
    raise AssertionError(f"no such form: {form}")


def photograph(root: Path, paths: list[str]) -> dict[str, bytes]:
    """Pictures at these paths below `root`, no two alike, and what each holds."""
    contents = {path.strip("/"): jpeg(number, (16, 16)) for number, path in enumerate(paths)}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return contents


def random_labels(seed: int, images: int, classes: int) -> list[int]:
    """Ascending labels, at least one image per class."""
    drawn = np.random.default_rng(seed).integers(0, classes, images - classes)
    return sorted([*drawn.tolist(), *range(classes)])


def broken(tmp_path: Path, what: str) -> tuple[Path, str, int | None, str]:
    """A set of LABELS with one thing of BROKEN wrong, and what the error must say: kind, key, words."""
    records = insightface(LABELS)
    folder = write(tmp_path / "set", records, "5,8,8\n")
    rec, idx = folder / "train.rec", folder / "train.idx"
    lines = idx.read_text().splitlines(keepends=True)
    offset = int(lines[3].split("\t")[1])
    content = bytearray(rec.read_bytes())
    match what:
        case "no folder":
            return tmp_path / "none", "missing", None, "no such folder"
        case "empty folder":
            (tmp_path / "empty").mkdir()
            return tmp_path / "empty", "missing", None, "holds no train.rec"
        case "no index":
            idx.unlink()
            return folder, "missing", None, "no such index"
        case "empty rec":
            rec.write_bytes(b"")
            return folder, "empty", None, "the file is empty"
        case "offset between records":
            idx.write_text("".join([*lines[:3], f"3\t{offset + 4}\n", *lines[4:]]))
            return folder, "index", 3, "no magic word"
        case "offset past the end":
            idx.write_text("".join([*lines[:3], f"3\t{10**12}\n", *lines[4:]]))
            return folder, "index", 3, "outside the file"
        case "negative offset":
            idx.write_text("".join([*lines[:3], "3\t-8\n", *lines[4:]]))
            return folder, "index", 3, "outside the file"
        case "key twice":
            idx.write_text("".join([*lines, "3\t0\n"]))
            return folder, "index", 3, "twice"
        case "negative key":
            idx.write_text("".join([*lines, "-3\t0\n"]))
            return folder, "index", -3, "negative"
        case "malformed index":
            idx.write_text("".join([*lines[:3], "three\n", *lines[4:]]))
            return folder, "index", None, "line 4"
        case "truncated":
            rec.write_bytes(content[:-20])
            return folder, "truncated", 12, "truncated"
        case "label outside":
            (folder / "property").write_text("4,8,8\n")
            return folder, "label", 7, "label 4, expected one of the 4 classes 0..3"
        case "label NaN" | "label 1e30" | "label -1" | "label 1.5":
            content[offset + 12 : offset + 16] = struct.pack("<f", float(what.split()[1]))
            rec.write_bytes(content)
            return folder, "label", 3, "expected one of the 5 classes"
        case "no image":
            write(folder, [*records, (99, payload(1, b""))])
            return folder, "empty", 99, "holds no image"
        case "only ranges":
            write(folder, [records[0], *records[8:]])
            return folder, "empty", None, "none of its 6 records holds an image"
        case "property words" | "property empty" | "property zero" | "property short":
            text = {"words": "five,8,8", "empty": "", "zero": "0,8,8", "short": "5"}[what.split()[1]]
            (folder / "property").write_text(text)
            return folder, "property", None, "expected num_classes,height,width"
        case "names missing":
            (folder / "names.txt").write_text("a\nb\n")
            return folder, "names", None, "2 names for 5 identities"
        case "names bytes":
            (folder / "names.txt").write_bytes(b"a\n\xff\n")
            return folder, "names", None, "not UTF-8"
        case "header too long":
            content[offset + 8 : offset + 12] = struct.pack("<I", 2**32 - 1)
            rec.write_bytes(content)
            return folder, "header", 3, "shorter than its image header"
        case "length 2^29-1":
            content[offset + 4 : offset + 8] = struct.pack("<I", 2**29 - 1)
            rec.write_bytes(content)
            return folder, "truncated", 3, "past the end"
    raise AssertionError(f"no such thing to be wrong: {what}")
