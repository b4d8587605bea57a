"""Synthetic identities that belong to no one: drawn faces, as many identities and images as one asks for.

Image j of identity i is a pure function of (seed, i, j): the same on any machine, with any number of processes, and
whatever else is in the set. Disjoint ranges of identities (training, probes, distractors) come from one seed.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from recordio_tools.dataset import DatasetWriter
from recordio_tools.errors import UserError
from recordio_tools.sources.faces.camera import encode
from recordio_tools.sources.faces.identity import draw_identities
from recordio_tools.sources.faces.nuisance import draw_shots
from recordio_tools.sources.faces.paint import render

ATTRIBUTES = "attributes.tsv"
BATCH = 256  # images drawn together: enough to spread the cost of a call to numpy
SIZES = range(32, 1025)
TAILS = ("balanced", "zipf")
GREY = 0.3
MOST_IDENTITIES, LARGEST = 10**8, 2**48  # of a set; of a seed, a number of images or the first of a range


def image_counts(
    identities: int,
    images: int,
    tail: str = "balanced",
    exponent: float = 1.0,
    shortest: int = 1,
    longest: int | None = None,
) -> np.ndarray:
    """How many of `images` each identity gets, int64 (identities,), descending.

    `balanced`: as equal as they can be. `zipf`: in proportion to rank^−exponent, no fewer than `shortest` and no more
    than `longest`. Raises UserError when no such split exists.
    """
    if not 1 <= identities <= MOST_IDENTITIES:
        raise UserError(f"{identities} identities given, expected 1 to {MOST_IDENTITIES}")
    if tail not in TAILS:
        raise UserError(f"tail {tail!r} given, expected one of {', '.join(TAILS)}")
    if not 0 < exponent <= 10:
        raise UserError(f"exponent {exponent:g} given, expected a number above 0, at most 10")
    if images > LARGEST:
        raise UserError(f"{images} images given, expected at most {LARGEST}")
    longest = images if longest is None else longest
    if not 1 <= shortest <= longest:
        raise UserError(f"from {shortest} to {longest} images per identity given, expected 1 <= least <= most")
    if not identities * shortest <= images <= identities * longest:
        raise UserError(
            f"{images} images given for {identities} identities of {shortest} to {longest} images each, "
            f"expected {identities * shortest} to {identities * longest} images"
        )
    longest = min(longest, images)
    if tail == "balanced":
        return images // identities + (np.arange(identities) < images % identities)
    weights = np.arange(1, identities + 1) ** -float(exponent)
    low, high = 0.0, images / weights[-1]
    for _ in range(100):  # bisection: the sum grows with the scale
        scale = (low + high) / 2
        if np.clip(scale * weights, shortest, longest).sum() < images:
            low = scale
        else:
            high = scale
    shares = np.clip(low * weights, shortest, longest)
    counts = np.floor(shares).astype(np.int64)
    order = np.argsort(-np.where(counts < longest, shares - counts, -1), kind="stable")
    counts[order[: images - counts.sum()]] += 1
    return -np.sort(-counts)


def identity_names(identities: np.ndarray) -> list[str]:
    """`synth-000123` for identity 123."""
    return [f"synth-{identity:06d}" for identity in identities]


def attribute_table(seed: int, identities: np.ndarray) -> str:
    """Tab-separated attributes of each identity with a heading: name, sex, skin, age, hair, beard."""
    face = draw_identities(seed, identities)
    length = np.where(face.bun > 0, 0.3, face.hair_length)
    columns = (
        identity_names(identities),
        np.where(face.male > 0, "male", "female"),
        np.select([face.skin_tone < 1 / 3, face.skin_tone < 2 / 3], ["dark", "medium"], "light"),
        np.where(face.age > 0.35, "older", "younger"),
        np.select([face.recession > 0.7, length < 0.19, length < 0.5], ["bald", "short", "medium"], "long"),
        np.select([face.beard > 0, face.moustache > 0], ["beard", "moustache"], "none"),
    )
    lines = [("name", "sex", "skin", "age", "hair", "beard"), *zip(*columns, strict=True)]
    return "".join("\t".join(line) + "\n" for line in lines)


@dataclass(frozen=True)
class Drawing:
    """What all pictures of a set share; the picture of an image is a function of this, its identity and its number.

    Attributes:
        seed: other seeds draw other people; 0 to 2^48 - 1.
        size: side of the pictures in pixels, 32 to 1024.
        grey: share of pictures without colour, 0 to 1.
        zoom: 1 for a portrait, 1.6 for a face framed as aligned crops are; 0.5 to 3.

    Raises:
        UserError: a value outside its range.
    """

    seed: int = 0
    size: int = 112
    grey: float = GREY
    zoom: float = 1.0

    def __post_init__(self) -> None:
        _refuse_outside("seed", self.seed)
        if self.size not in SIZES:
            raise UserError(f"size {self.size} given, expected {SIZES.start} to {SIZES.stop - 1} pixels")
        if not 0 <= self.grey <= 1:
            raise UserError(f"share {self.grey:g} of grey images given, expected 0 to 1")
        if not 0.5 <= self.zoom <= 3:
            raise UserError(f"zoom {self.zoom:g} given, expected 0.5 (far) to 3 (close)")


def _refuse_outside(name: str, value: int) -> None:
    if not 0 <= value < LARGEST:
        raise UserError(f"{name} {value} given, expected 0 to {LARGEST - 1}")


def draw_jpegs(drawing: Drawing, identities: np.ndarray, images: np.ndarray) -> list[bytes]:
    """The pictures images[b] of identities[b], int64 (B,) both, as RGB JPEGs."""
    shots = draw_shots(drawing.seed, identities, images, drawing.grey, drawing.zoom)
    pictures = render(draw_identities(drawing.seed, identities), shots, drawing.size)
    return [encode(picture, round(quality)) for picture, quality in zip(pictures, shots.quality.tolist(), strict=True)]


def _batches(counts: np.ndarray, first_identity: int, first_image: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Identities and image numbers, BATCH at a time, identity by identity."""
    ends = np.cumsum(counts)
    for begin in range(0, int(ends[-1]), BATCH):
        flat = np.arange(begin, min(begin + BATCH, int(ends[-1])))
        labels = np.searchsorted(ends, flat, side="right")
        yield first_identity + labels, first_image + flat - (ends - counts)[labels]


def jpegs(
    counts: np.ndarray, drawing: Drawing, *, first_identity: int = 0, first_image: int = 0, workers: int = 1
) -> Iterator[tuple[bytes, int]]:
    """JPEG and label (0 for the first identity) of counts[k] images of each identity, in that order, as a stream."""
    batches = _batches(counts, first_identity, first_image)
    if min(workers, np.sum(counts) / BATCH) <= 1:
        for identities, images in batches:
            yield from zip(draw_jpegs(drawing, identities, images), identities - first_identity, strict=True)
        return
    # An interrupt is for this process to answer; the workers end with it. They are not forked: a child of a process
    # with threads may wait for a lock that no thread of its own will open.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        ahead: deque = deque()
        try:
            for identities, images in batches:
                ahead.append((identities, pool.submit(draw_jpegs, drawing, identities, images)))
                if len(ahead) > 3 * workers:  # enough to keep everyone busy, and memory bounded
                    done, task = ahead.popleft()
                    yield from zip(task.result(), done - first_identity, strict=True)
            for done, task in ahead:
                yield from zip(task.result(), done - first_identity, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_synthetic(
    out: Path | str,
    counts: np.ndarray,
    *,
    seed: int = 0,
    size: int = 112,
    grey: float = GREY,
    zoom: float = 1.0,
    first_identity: int = 0,
    first_image: int = 0,
    workers: int | None = None,
    force: bool = False,
) -> int:
    """Write a set of drawn faces, and their attributes as `attributes.tsv`.

    Args:
        out: the new data folder.
        counts: images of each identity, int64 (K,).
        seed, size, grey, zoom: as in `Drawing`.
        first_identity, first_image: identity k is number first_identity + k, and its images begin with first_image.
        workers: processes that draw, all cores by default.
        force: an existing folder is replaced.

    Returns:
        The number of images.

    Raises:
        UserError: a value outside its range, or an output that exists or cannot be written.
    """
    workers = _cores() if workers is None else workers
    if not 1 <= workers <= 1024:
        raise UserError(f"workers {workers} given, expected 1 to 1024")
    _refuse_outside("first identity", first_identity)
    _refuse_outside("first image", first_image)
    drawing = Drawing(seed, size, grey, zoom)
    identities = first_identity + np.arange(len(counts))
    stream = jpegs(counts, drawing, first_identity=first_identity, first_image=first_image, workers=workers)
    with DatasetWriter(out, len(counts), (size, size), names=identity_names(identities), force=force) as writer:
        for jpeg, label in tqdm(stream, total=int(np.sum(counts)), desc="synth", unit="img", delay=1):
            writer.add(jpeg, int(label))
        (writer.partial / ATTRIBUTES).write_text(attribute_table(seed, identities), encoding="utf-8")
    return int(np.sum(counts))
