"""A small data folder whose classes a network can learn: each has a pattern of its own."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from recordio_tools.writer import DatasetWriter


def write_faces(
    folder: Path, classes: int = 5, images: int = 6, size: int = 32, called: str = "person", fewer: int = 0
) -> Path:
    """classes x images JPEGs of size x size; the names are person-0 …, or as `called`. fewer: in every second class."""
    rng = np.random.default_rng(7)
    patterns = rng.integers(0, 255, (classes, 4, 4, 3), dtype=np.uint8)
    names = [f"{called}-{i}" for i in range(classes)]
    with DatasetWriter(folder, classes, (size, size), names) as writer:
        for label in range(classes):
            for _ in range(images - fewer * (label % 2)):
                noisy = np.clip(patterns[label].astype(int) + rng.integers(-30, 30, (4, 4, 3)), 0, 255).astype(np.uint8)
                stream = BytesIO()
                Image.fromarray(noisy).resize((size, size)).save(stream, "JPEG", quality=90)
                writer.add(stream.getvalue(), label)
    return folder
