"""Splits a set into training, validation, test and open set that share no image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recordio_tools.atomic import output_folder
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.curate import uniforms
from recordio_tools.rewrite.selection import write_selection


@dataclass(frozen=True)
class Parts:
    """What is held out of training: so many random images of each identity; and all images of some identities.

    validation, test: images of each identity, 0 for no such set. strangers: labels, for the open set.
    """

    validation: int = 0
    test: int = 0
    strangers: range | None = None


def places(labels: np.ndarray, seed: int) -> np.ndarray:
    """int64[N]: the place of each image in a random order of the images of its identity."""
    order = np.lexsort((uniforms(seed, len(labels)), labels))
    grouped = labels[order]
    out = np.empty(len(labels), np.int64)
    out[order] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return out


def assign(source: RecordDataset, parts: Parts, seed: int) -> dict[str, np.ndarray]:
    """Rows (ascending) of `train`, and of `validation`, `test` and `open` where they are asked for.

    Raises RecordError where nothing is asked for, an identity would keep no image for training, or the strangers are
    no range of identities that leaves others.
    """
    if not (parts.validation or parts.test) and parts.strangers is None:
        raise RecordError("nothing to hold out; give --validation N, --test N or --open START:STOP", kind="count")
    strange = np.zeros(len(source), bool)
    if parts.strangers is not None:
        start, stop = parts.strangers.start, parts.strangers.stop
        if not 0 <= start < stop <= source.num_classes or stop - start == source.num_classes:
            problem = f"strangers {start}:{stop} given, expected a range within 0:{source.num_classes} that leaves some"
            raise RecordError(problem, path=source.folder, kind="label")
        strange = (source.labels >= start) & (source.labels < stop)
    counts = np.bincount(source.labels[~strange])
    held = parts.validation + parts.test
    short = np.flatnonzero((counts > 0) & (counts <= held))
    if len(short):
        problem = f"identity {short[0]} has {counts[short[0]]} images, expected {held + 1} at least to hold out {held}"
        raise RecordError(f"{problem}; drop such identities: subset --min-images {held + 1}", path=source.folder)
    place = places(source.labels, seed)
    rows = {
        "train": ~strange & (place >= held),
        "validation": ~strange & (place >= parts.test) & (place < held),
        "test": ~strange & (place < parts.test),
        "open": strange,
    }
    return {name: np.flatnonzero(own) for name, own in rows.items() if own.any() or name == "train"}


def split(
    source: RecordDataset, out: Path, parts: Parts, *, seed: int, force: bool = False
) -> dict[str, tuple[int, int]]:
    """Write the data folders `out/train`, `out/validation`, `out/test` and `out/open`; images and identities of each.

    Identities have the same labels in the first three, contiguous from 0; the strangers have labels of their own.
    Raises RecordError, see `assign`.
    """
    written = {}
    with output_folder(out, force=force) as partial:
        for name, rows in assign(source, parts, seed).items():
            choice = {"method": "split", "part": name, "seed": seed}
            choice |= {"validation": parts.validation, "test": parts.test}
            manifest = write_selection(source, rows, partial / name, choice=choice)
            written[name] = (manifest["images"], manifest["identities"])
    return written
