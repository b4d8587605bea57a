"""What tells one training set from another without reading it whole."""

from typing import Any

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict

from recordio_tools.dataset import RecordDataset

SAMPLE = 64  # images, evenly spread, whose bytes are hashed


class Fingerprint(BaseModel):
    """Of a set: its size, and hashes (xxh3, 64 bits) of the labels, of where its records lie, of some images."""

    model_config = ConfigDict(frozen=True)

    images: int
    classes: int
    labels: str
    records: str
    sample: str

    def differences(self, other: "Fingerprint") -> str:
        """What differs between this set and another, in words; empty where nothing does."""
        names = type(self).model_fields
        pairs: list[tuple[str, Any, Any]] = [(name, getattr(self, name), getattr(other, name)) for name in names]
        numbers = [f"{was} {name}, now {now}" for name, was, now in pairs if was != now and isinstance(was, int)]
        words = {"labels": "other labels", "records": "records of other lengths", "sample": "other images"}
        return ", ".join(numbers or [words[name] for name, was, now in pairs if was != now])


def fingerprint(dataset: RecordDataset) -> Fingerprint:
    """That of a set; wherever its folder lies."""
    places = np.stack([dataset.keys, dataset.offsets, dataset.ends])
    chosen = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(np.int64))
    sample = xxhash.xxh3_64()
    for i in chosen.tolist():
        sample.update(dataset.jpeg(i).tobytes())
    return Fingerprint(
        images=len(dataset),
        classes=dataset.num_classes,
        labels=_hash(dataset.labels),
        records=_hash(places),
        sample=sample.hexdigest(),
    )


def _hash(numbers: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(numbers.astype("<i8")).data)
