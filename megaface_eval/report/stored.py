"""A report folder, read back: its contents and tallies, or one line on why it is none."""

from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import UNREADABLE
from megaface_eval.protocols.metrics import Tallies
from megaface_eval.report.schema import Report, read_report
from megaface_eval.strict_json import read_json


def tallies_as_arrays(tallies: list[dict[str, Tallies]]) -> dict[str, np.ndarray]:
    """What tallies.npz holds: per-identity hits and trials of every method and column, by `method/column/part`."""
    return {
        f"{i}/{key}/{part}": getattr(held, part)
        for i, columns in enumerate(tallies)
        for key, held in columns.items()
        for part in ("hits", "trials")
    }


def load_report(path: Path) -> tuple[Report, list[dict[str, Tallies]]]:
    """A report folder's contents, and the tallies of each method by column. Raises InputError for anything else."""
    if not (path / "report.json").is_file():
        raise InputError(f"{path}: not a report of this program (no report.json); expected its --output folder")
    report = read_report(read_json(path / "report.json"), path)
    try:
        with np.load(path / "tallies.npz") as arrays:
            held = {name: np.asarray(arrays[name]) for name in arrays.files}
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: tallies.npz is not readable ({reason}); make the report again") from error
    shape = (report.probes.identities,)
    tallies: list[dict[str, Tallies]] = []
    for i, method in enumerate(report.methods):
        measured = [column.key for column in report.columns if method.cells[column.key].probes is not None]
        tallies.append({})
        for key in measured:
            hits, trials = (_counts(held.get(f"{i}/{key}/{part}"), shape) for part in ("hits", "trials"))
            if hits is None or trials is None or (hits > trials).any():
                raise InputError(f"{path}: tallies.npz does not belong to report.json ({key}); make the report again")
            tallies[-1][key] = Tallies(hits, trials)
    return report, tallies


def _counts(values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """The values, if they are numbers of that shape and none is below 0."""
    if values is None or values.shape != shape or values.dtype.kind not in "fiu" or not (values >= 0).all():
        return None
    return values
