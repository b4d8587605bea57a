"""Small validation sets of every kind."""

from pathlib import Path

import numpy as np
from faces import write_faces

from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.bins import Pack, write_pack


def write_toy_pack(path: Path, pairs: int = 30, same: float = 0.5) -> Path:
    """Pairs of drawn patterns, in the order different, same, different …; same: 0 or 1 for one kind alone."""
    people = RecordDataset(write_faces(path.parent / f"{path.stem}-people", classes=8, images=4, called="pair"))
    rng, images, answers = np.random.default_rng(2), [], []
    for number in range(pairs):
        one = bool(number % 2) if same == 0.5 else bool(same)
        first = int(rng.integers(8))
        second = first if one else (first + 1 + int(rng.integers(7))) % 8
        x, y = rng.choice(4, 2, replace=False)
        images += [people.jpeg(int(4 * person + at)).tobytes() for person, at in ((first, x), (second, y))]
        answers.append(one)
    write_pack(path, Pack(images, np.array(answers)))
    return path


def write_sets(folder: Path, classes: int = 5) -> dict[str, list[str]]:
    """A set of each kind, as the block "validation" names them; of a training set of so many classes."""
    return {
        "packs": [str(write_toy_pack(folder / "toy.bin"))],
        "strangers": [str(write_faces(folder / "held", classes=9, images=3, called="stranger"))],
        "known": [str(write_faces(folder / "val", classes=classes, images=3))],
    }
