"""What a set holds, in figures for people and for programs."""

import numpy as np

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError, decode, unpack

MANY, FEW = 100, 20  # images: at least this many are many-shot, at most this few are few-shot
SAMPLES = 200


def inspect(source: RecordDataset, samples: int = SAMPLES) -> dict:
    """Figures of a set as a dictionary fit for JSON; image sizes come from `samples` images spread over the set."""
    counts = np.bincount(source.labels, minlength=source.num_classes)
    present = np.sort(counts[counts > 0])
    records = int(len(source) + len(source.range_keys))
    return {
        "path": str(source.rec_path),
        "bytes": len(source.data),
        "records": {"image": len(source), "identity": _identity_records(source), "header": int(0 in source.range_keys)},
        "record_count": records,
        "multipart_records": int(source.headers.multipart.sum()),
        "keys": {"first": int(source.keys[0]), "last": int(source.keys[-1]), "gaps": _gaps(source.keys)},
        "file_order": "keys" if bool((np.diff(source.offsets) > 0).all()) else "shuffled",
        "header": _header(source),
        "labels": _label_layouts(source),
        "identities": {
            "classes": source.num_classes,
            "with_images": len(present),
            "named": source.names is not None,
            "images_longest": int(present[-1]),
            "images_median": float(np.median(present)),
            "images_shortest": int(present[0]),
            **shots(present),
        },
        "image_size": {"stated": list(source.image_size), "sampled": _sizes(source, samples)},
        "image_bytes_mean": round(float(source.headers.image_bytes.mean()), 1),
    }


def shots(counts: np.ndarray) -> dict[str, int]:
    """Identities by their number of training images: many (100 or more), medium, few (20 or fewer)."""
    many, few = int((counts >= MANY).sum()), int((counts <= FEW).sum())
    return {"many_shot": many, "medium_shot": len(counts) - many - few, "few_shot": few}


def _identity_records(source: RecordDataset) -> int:
    return int((source.range_keys != 0).sum())


def _gaps(keys: np.ndarray) -> int:
    return int(keys[-1] - keys[0] + 1 - len(keys))


def _header(source: RecordDataset) -> dict | None:
    """The header record's two labels and where it lies among the records of the file, None when there is none."""
    at = np.flatnonzero(source.range_keys == 0)
    if len(at) == 0:
        return None
    offset = int(source.range_offsets[at[0]])
    payload, _ = decode(source.data, offset, path=source.rec_path, key=0)
    labels = unpack(payload, path=source.rec_path, key=0, offset=offset)[0].labels
    before = int((source.offsets < offset).sum() + (source.range_offsets < offset).sum())
    place = "first" if before == 0 else "last" if before == len(source) + len(source.range_keys) - 1 else "middle"
    return {"labels": labels, "place": place}


def _label_layouts(source: RecordDataset) -> dict[str, int]:
    """How many image records have each number of labels: `scalar`, or `vector of n`."""
    flags, numbers = np.unique(source.headers.flag, return_counts=True)
    return {
        "scalar" if flag == 0 else f"vector of {flag}": int(number) for flag, number in zip(flags, numbers, strict=True)
    }


def _sizes(source: RecordDataset, samples: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in np.unique(np.linspace(0, len(source) - 1, samples).astype(int)).tolist():
        try:
            height, width = source.measure(row)
            size = f"{height}x{width}"
        except RecordError:
            size = "undecodable"
        found[size] = found.get(size, 0) + 1
    return found


def describe_figures(figures: dict) -> str:
    """The same figures as aligned lines for people."""
    records, identities, keys = figures["records"], figures["identities"], figures["keys"]
    header = figures["header"]
    sizes = ", ".join(f"{size} ({count})" for size, count in figures["image_size"]["sampled"].items())
    ranges = f"{records['identity']:,} identity, {records['header']} header"
    lines = {
        "file": f"{figures['path']} ({figures['bytes']:,} bytes)",
        "images": f"{records['image']:,}, {figures['image_bytes_mean']:,.0f} bytes each on average",
        "identities": f"{identities['with_images']:,} with images of {identities['classes']:,} classes, "
        + ("named" if identities["named"] else "without names"),
        "tail": f"{identities['images_longest']:,} images at most, {identities['images_median']:g} median, "
        f"{identities['images_shortest']:,} at least",
        "shots": f"{identities['many_shot']:,} many (>= {MANY}), {identities['medium_shot']:,} medium, "
        f"{identities['few_shot']:,} few (<= {FEW})",
        "other records": f"{ranges}; {figures['multipart_records']:,} of the images in several parts",
        "keys": f"{keys['first']:,}..{keys['last']:,}, {keys['gaps']:,} missing; file order: {figures['file_order']}",
        "header": "none" if header is None else f"{header['labels']}, {header['place']} in the file",
        "labels": ", ".join(f"{layout} ({count:,})" for layout, count in figures["labels"].items()),
        "image size": "{}x{} stated; sampled: {}".format(*figures["image_size"]["stated"], sizes),
    }
    return "\n".join(f"{name:<14} {text}" for name, text in lines.items())
