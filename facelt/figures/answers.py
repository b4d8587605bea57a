"""Whom a run's own classifier names in every image of a set, and how sure it is."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from facelt.errors import UserError
from facelt.figures.opened import OpenedRun
from facelt.images.dali import Dataset
from facelt.images.one_pass import each_batch


class Answers(NamedTuple):
    """classes_N: the class with the highest softmax probability. probabilities_N: that probability."""

    classes_N: NDArray[np.int64]
    probabilities_N: NDArray[np.float64]


def answers(run: OpenedRun, images: Dataset, batch: int, title: str) -> Answers:
    """One pass over a set, called `title`. Raises UserError for an image that does not decode, or a diverged run."""

    def name(images_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = run.see(images_B3SS).probabilities_BK.double().max(1)
        return best.indices, best.values

    classes, probabilities = [], []
    for part in each_batch(name, images, run.decoding(batch), title):
        classes.append(part.output[0].cpu().numpy()[part.valid_G])
        probabilities.append(part.output[1].cpu().numpy()[part.valid_G])
    found = Answers(np.concatenate(classes), np.concatenate(probabilities))
    if not np.isfinite(found.probabilities_N).all():
        raise UserError(f"{title}: a probability is not finite: the run has diverged; give another run")
    return found
