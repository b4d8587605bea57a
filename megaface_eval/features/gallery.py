"""The distractors: nested galleries of growing size, handed out as blocks of unit rows."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet

# Rows a block: 67 MB at D = 512, large enough for full speed, small beside a 1.5 GB budget even when read ahead.
BLOCK_ROWS = 32768
LARGEST = 1e12
UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a gallery, as they are scored (float32, B×D).

    start: place of the first. segment: index of the smallest nested size that holds them all.
    """

    start: int
    segment: int
    unit_BD: np.ndarray


def parse_size(text: str) -> int:
    """Number of distractors in `10`, `1K`, `2.5k`, `100K`, `1M`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    size = float(match[1]) * UNITS[match[2].lower()] if match else 0
    if not 1 <= size < LARGEST or size != int(size):
        raise InputError(f"gallery {text!r}: expected a number of distractors such as 10, 1K, 100K, 1M")
    return int(size)


def nested_sizes(largest: int) -> list[int]:
    """The powers of ten from 10 to the largest size, and the largest itself: the sizes of the devkit's nested sets."""
    powers = [10**exponent for exponent in range(1, len(str(largest)) + 1) if 10**exponent < largest]
    return [*powers, largest]


class Gallery:
    """Nested sets of distractors: the first `sizes[i]` places of one order.

    Args:
        features: the distractors, N rows.
        sizes: numbers of distractors, ascending; sizes count rows before `dropped` ones are taken out.
        seed: None takes the rows in file order, as the devkit's lists do; a number draws a seeded order.
        dropped: rows (bool, N) that take no part, such as those of a noise list.
        extend: unit rows to the rows that are scored, with the further columns of a score cohort; None leaves them.
    """

    def __init__(
        self,
        features: FeatureSet,
        sizes: list[int],
        seed: int | None = None,
        dropped: np.ndarray | None = None,
        extend: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        if sizes[-1] > len(features):
            raise InputError(
                f"{features.where}: {len(features)} distractors, fewer than the gallery of {sizes[-1]} asked for; "
                f"ask for --gallery {len(features)} at most or bring more"
            )
        self.features, self.extend = features, extend
        order = None if seed is None else np.random.default_rng(seed).permutation(len(features))[: sizes[-1]]
        segments = []  # (rows or range) of each ring between two sizes, ascending so that reading is sequential
        for inner, outer in zip([0, *sizes[:-1]], sizes, strict=True):
            rows = np.arange(inner, outer) if order is None else np.sort(order[inner:outer])
            segments.append(rows if dropped is None else rows[~dropped[rows]])
        if not any(len(segment) for segment in segments):
            raise InputError(f"{features.where}: all {sizes[-1]} distractors are noise; nobody is left in the gallery")
        self.places = np.concatenate(segments)  # place in the gallery -> row of the feature set
        self.ends = np.cumsum([len(segment) for segment in segments])
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.places)

    def spans(self, block_rows: int = BLOCK_ROWS) -> list[tuple[int, int, int]]:
        """(start, stop, segment) of every block, none across the edge of a size."""
        starts = [0, *self.ends[:-1].tolist()]
        return [
            (at, min(at + block_rows, end), segment)
            for segment, (start, end) in enumerate(zip(starts, self.ends.tolist(), strict=True))
            for at in range(start, end, block_rows)
        ]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows at places start … stop-1 as they are scored, float32 (n×D), unit rows unless extended."""
        rows = self.places[start:stop]
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first == len(rows):
            unit = self.features.unit(first, last)
        else:
            unit = self.features.unit_take(rows)
        return unit if self.extend is None else self.extend(unit)

    def blocks(self, spans: list[tuple[int, int, int]]) -> Iterator[Block]:
        """The blocks of those spans, each read while the one before is being used."""
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for span in [*spans, None]:
                behind, ahead = ahead, span and (span, reader.submit(self.read, *span[:2]))
                if behind is not None:
                    (start, _, segment), rows = behind
                    yield Block(start, segment, rows.result())
