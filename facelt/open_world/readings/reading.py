"""What is said of every image: the best class by each reading, and signals for strangers.

G: images of all ranks, N: images of a set, D: embedding size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facelt.errors import UserError
from facelt.features.recognisers import Recognised
from facelt.open_world.scoring import Prototypes
from facelt.open_world.sets import Batches, Given
from facelt.parallel import collectives

Embedded = dict[str, Tensor]  # gathered embeddings by name, G x D each
Columns = dict[str, NDArray]


@dataclass(frozen=True)
class Knobs:
    """What the readings can be set to.

    temperature: t of the memory's softmax(t·cos); 16 is the scale of the released head. tau: of `tau` and
    `logit_adjusted`. ridge: of `plda`, times the mean variance within classes. tail, alpha: distances of a class that
    OpenMax fits, and best classes that it revises.
    """

    temperature: float = 16.0
    tau: float = 1.0
    ridge: float = 1.0
    tail: int = 20
    alpha: int = 10


class Reading(Protocol):
    """One way to name an image."""

    def __call__(self, v: Embedded) -> dict[str, Tensor]:
        """The columns of a batch, G each, on all ranks alike: class, probability, and what else it knows."""
        ...


@dataclass(frozen=True)
class ByPrototypes:
    """The class whose prototype scores highest. query: embeddings -> rows x D, what the prototypes score."""

    prototypes: Prototypes
    query: Callable[[Embedded], Tensor]

    def __call__(self, v: Embedded) -> dict[str, Tensor]:
        best = self.prototypes.best(self.query(v))
        return {"class": best.classes_G, "score": best.scores_G, "probability": best.probabilities_G}


def gathered(batches: Batches, output: Recognised) -> Embedded:
    """The embeddings of all ranks' images in a batch, by name."""
    pairs = zip(batches.embeddings, output.features, strict=True)
    return {name: collectives.gather(rows_BD.contiguous()) for name, rows_BD in pairs}


@torch.no_grad()
def read_set(batches: Batches, readings: dict[str, Reading], given: Given, title: str) -> Columns:
    """What the readings say of every image of a set, N each, on all ranks.

    Args:
        batches: with the embeddings that the readings take.
        readings: by name.
        given: in whose order the columns stand.
        title: of the progress bar.

    Returns:
        NAME.class, NAME.probability and what else each reading knows; of a meta run also `reachability` (γ) and `norm`
        (‖v_meta‖); and what the recogniser knows beside, such as `odin`.

    Raises:
        UserError: a value is not finite.
        SystemExit: an image does not decode; the rank that met it has said so.
    """
    columns: Columns = {}
    for batch in batches.each(given, title):
        images, v = batch.images_G[batch.valid_G], gathered(batches, batch.output)
        found = {f"{name}.{part}": c for name, reading in readings.items() for part, c in reading(v).items()}
        found |= {name: collectives.gather(c.contiguous()) for name, c in batch.output.columns.items()}
        if "meta" in v:
            found["norm"] = torch.linalg.vector_norm(v["meta"], dim=1)
        for name, column_G in found.items():
            values = column_G.cpu().numpy()[batch.valid_G]
            columns.setdefault(name, np.empty(len(given.content), values.dtype))[images] = values
    for name, column in columns.items():
        if not np.isfinite(column).all():
            first = int(np.argmin(np.isfinite(column)))
            raise UserError(
                f"{title}: {name} of image {first} is not finite: the run has diverged, or the features are damaged; "
                "give others"
            )
    return columns
