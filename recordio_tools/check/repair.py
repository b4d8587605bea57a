"""Writes a clean set from all that is whole, and puts the rest in quarantine."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from recordio_tools.check.verify import Survey
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.copying import copy_images
from recordio_tools.writer import DatasetWriter

QUARANTINE, QUARANTINE_LIST = "quarantine.bin", "quarantine.json"
COPY_BYTES = 16 << 20


def repair(survey: Survey, out: Path, *, force: bool = False) -> int:
    """Write every whole image of a survey to a new set with an index and key ranges of its own; returns their number.

    Images keep their labels, bytes and paths; keys are given anew. The bytes left out go as they are, one piece after
    the other, to `quarantine.bin`; `quarantine.json` lists where each piece came from and why, and all faults.
    Raises RecordError when no image is whole.
    """
    images = survey.images
    if len(images) == 0:
        raise RecordError("no whole image is left to repair the set from", path=images.rec_path, kind="empty")
    labels = images.headers.label.astype(np.int64)
    size = survey.image_size or _first_size(survey)
    with DatasetWriter(out, survey.num_classes, size, names=survey.names, force=force, paths=survey.paths) as writer:
        copy_images(images, np.arange(len(images)), labels, writer)
        if survey.left_out:
            pieces = _write_quarantine(survey, writer.partial / QUARANTINE)
            listed = {"left_out": pieces, "faults": [fault._asdict() for fault in survey.faults]}
            (writer.partial / QUARANTINE_LIST).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    return len(images)


def _first_size(survey: Survey) -> tuple[int, int]:
    """(height, width) of the first image that has one. Raises RecordError for the first where none has."""
    for row in range(len(survey.images)):
        with suppress(RecordError):
            return survey.images.measure(row)
    return survey.images.measure(0)


def _write_quarantine(survey: Survey, path: Path) -> list[dict]:
    pieces = []
    with open(path, "wb") as file:
        for start, end, why in survey.left_out:
            pieces.append({"offset": start, "bytes": end - start, "why": why, "at": file.tell()})
            for begin in range(start, end, COPY_BYTES):
                file.write(survey.images.data[begin : min(begin + COPY_BYTES, end)].data)
    return pieces
