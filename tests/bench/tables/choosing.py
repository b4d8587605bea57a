"""The learning rate of each arm, chosen on the validation part of the first seed at the short budget."""

from pathlib import Path

from facelt.open_world.readings.reading import Columns
from recordio_tools.dataset import RecordDataset
from tests.bench.tables import sets
from tests.bench.tables.arms import Arm
from tests.bench.tables.running import Budget, Diverged, result

RATES = (0.3, 1.0)  # times 0.1
BUDGET = Budget(epochs=4, seed=0)


def choose(arm: Arm, name: str, folder: Path) -> float:
    """The rate with the best `merit`. Raises Diverged where every one diverged."""
    merits: dict[float, float] = {}
    for rate in RATES:
        try:
            merits[rate] = merit(arm, result(arm, name, BUDGET, rate, folder), folder)
        except Diverged:
            continue
    if not merits:
        raise Diverged(name)
    return max(merits, key=lambda rate: merits[rate])


def merit(arm: Arm, found: Columns, folder: Path) -> float:
    """Mean of the top-1 of known people, by the arm's own reading, and of the strangers' rank-1, on validation."""
    of = sets.parts(folder)["validation"]
    labels_N = RecordDataset(folder / "known").labels
    right_N = found[f"{arm.reads[0]}.class"] == labels_N
    ranks = [name for name in ("meta", "direct") if f"rank1.{name}.validation" in found]
    return float(right_N[of.known_N].mean() + found[f"rank1.{ranks[0]}.validation"].mean()) / 2
