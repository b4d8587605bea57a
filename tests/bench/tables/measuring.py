"""The figures of a trained arm on the test part: known people in the shape of Table 3, strangers in that of Table 4.

C: known people, S: strangers, N: known images, M: strangers' images. All of it is of `facelt.open_world.figures`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelt.open_world.figures import (
    Auroc,
    ClassAccuracy,
    Figure,
    Floats,
    FMeasure,
    ImageAccuracy,
    Separation,
    Weights,
    per_group,
    share,
)
from facelt.open_world.readings.reading import Columns
from facelt.open_world.shots import SHOTS, Bounds
from recordio_tools.dataset import RecordDataset
from tests.bench.tables import sets

BOUNDS = Bounds(20, 6)
KNOWN = ("all", *SHOTS, "F", "AUROC")
EMBEDDINGS = ("direct", "meta", "control")
GRID = 200  # thresholds that are tried


@dataclass(frozen=True)
class Facts:
    """Of the sets: labels_N and identities_M, training images of each class, which images are of which part."""

    labels_N: NDArray[np.int64]
    identities_M: NDArray[np.int64]
    orl: NDArray[np.int64]
    counts_C: NDArray[np.int64]
    parts: dict[str, sets.Part]

    @classmethod
    def of(cls, folder: Path) -> "Facts":
        labels = {name: RecordDataset(folder / name).labels for name in ("train", "known", "strangers", "orl")}
        counts_C = np.bincount(labels["train"])
        return cls(labels["known"], labels["strangers"], labels["orl"], counts_C, sets.parts(folder))

    @property
    def people(self) -> dict[str, int]:
        """How many strangers are drawn from, for the figures of Table 3 and of either column of Table 4."""
        drawn = len(np.unique(self.identities_M[self.parts["test"].open_M]))
        return {"known": drawn, "drawn": drawn, "orl": len(np.unique(self.orl))}


@dataclass(frozen=True)
class StrangerAccuracy:
    """The share of strangers' probes whose nearest other image is theirs. hits_S of trials_S probes of each."""

    hits_S: Floats
    trials_S: Floats

    @property
    def enough(self) -> bool:
        return len(self.hits_S) > 1

    def __call__(self, weights: Weights) -> float | None:
        return share(weights.strangers_S @ self.hits_S, weights.strangers_S @ self.trials_S)


def known_people(found: Columns, reading: str, facts: Facts) -> dict[str, Figure]:
    """Closed set, F-measure and AUROC by one reading. The threshold of F is the best one of the validation part."""
    of, C = facts.parts["test"], len(facts.counts_C)
    label_N, class_N = facts.labels_N[of.known_N], found[f"{reading}.class"][of.known_N]
    hits_C = per_group(class_N == label_N, label_N, C)
    trials_C = per_group(np.ones(len(label_N)), label_N, C)
    members = BOUNDS.members(facts.counts_C)
    separation = Separation.of(
        found[f"{reading}.signal"][of.known_N],
        label_N,
        found[f"open.{reading}.signal"][of.open_M],
        strangers(facts, "test"),
    )
    return {
        "all": ImageAccuracy(hits_C, trials_C),
        **{shot: ClassAccuracy(hits_C, trials_C, members[shot]) for shot in SHOTS},
        "F": f_measure(found, reading, facts, "test", best_threshold(found, reading, facts)),
        "AUROC": Auroc(separation),
    }


def strangers(facts: Facts, part: str) -> NDArray[np.int64]:
    """The place of each of a part's stranger images' identities among those of the part."""
    return np.unique(facts.identities_M[facts.parts[part].open_M], return_inverse=True)[1]


def f_measure(found: Columns, reading: str, facts: Facts, part: str, threshold: float) -> FMeasure:
    """F of the open set where what is below the threshold, by the reading's signal, is called unknown."""
    of, C, stranger_M = facts.parts[part], len(facts.counts_C), strangers(facts, part)
    label_N, class_N = facts.labels_N[of.known_N], found[f"{reading}.class"][of.known_N]
    accepted_N = found[f"{reading}.signal"][of.known_N] >= threshold
    accepted_M = found[f"open.{reading}.signal"][of.open_M] >= threshold
    hits_C = per_group((class_N == label_N) & accepted_N, label_N, C)
    trials_C = per_group(np.ones(len(label_N)), label_N, C)
    return FMeasure(hits_C, trials_C - hits_C, per_group(accepted_M, stranger_M, int(stranger_M.max()) + 1))


def best_threshold(found: Columns, reading: str, facts: Facts) -> float:
    """The threshold with the highest F on the validation part; of equals the lowest."""
    signal_N = found[f"{reading}.signal"][facts.parts["validation"].known_N]
    tried = np.unique(np.quantile(signal_N, np.linspace(0, 1, GRID)))
    ones = Weights(np.ones(len(facts.counts_C)), np.ones(sets.VALIDATION_STRANGERS))
    values = [f_measure(found, reading, facts, "validation", t)(ones) or 0.0 for t in tried]
    return float(tried[int(np.argmax(values))])


def identified(found: Columns, embedding: str, who: str, facts: Facts) -> Figure | None:
    """Rank-1 of strangers among distractors, "drawn" or "orl", by an embedding; None where the arm has none."""
    name = f"rank1.{embedding}.{'test' if who == 'drawn' else 'orl'}"
    if name not in found:
        return None
    stranger_P = strangers(facts, "test") if who == "drawn" else np.unique(facts.orl, return_inverse=True)[1]
    S = int(stranger_P.max()) + 1
    return StrangerAccuracy(per_group(found[name], stranger_P, S), per_group(np.ones(len(stranger_P)), stranger_P, S))
