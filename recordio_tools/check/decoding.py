"""Decodes every image of a set, on all cores, to find those that do not decode."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

from PIL import UnidentifiedImageError
from tqdm import tqdm

from recordio_tools.format.image_records import ImageRecords
from recordio_tools.format.pictures import DECODE_ERRORS, decode_size, undecodable

BATCH = 512
_images: ImageRecords  # of a worker process, set when it begins


def _begin(images: ImageRecords) -> None:
    global _images
    _images = images


def _decode(rows: tuple[int, int]) -> list[tuple[int, str | tuple[int, int]]]:
    return [(row, decode_one(_images, row)) for row in range(*rows)]


def decode_one(images: ImageRecords, row: int) -> str | tuple[int, int]:
    """(height, width) of the decoded image, or what went wrong: a foreign format, or the name of an error."""
    image = images.jpeg(row)
    try:
        return decode_size(image)
    except UnidentifiedImageError:
        return undecodable(image) or UnidentifiedImageError.__name__
    except DECODE_ERRORS as error:
        return type(error).__name__


def decode_all(images: ImageRecords) -> Iterator[tuple[int, str | tuple[int, int]]]:
    """`decode_one` of every row, in order."""
    edges = [*range(0, len(images), BATCH), len(images)]
    if len(images) <= BATCH:
        yield from ((row, decode_one(images, row)) for row in range(len(images)))
        return
    # Not forked: a child of a process with threads may wait for a lock that no thread of its own will open.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(os.cpu_count(), context, _begin, (images,)) as pool,
        tqdm(total=len(images), desc="decoding", unit="image", unit_scale=True, delay=2, leave=False) as bar,
    ):
        for batch in pool.map(_decode, pairwise(edges)):
            yield from batch
            bar.update(len(batch))
