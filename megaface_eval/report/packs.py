"""Figures of verification packs as a sheet: a line for each pack, without and with the flip."""

from megaface_eval.formats.packs import PackScores
from megaface_eval.report.sheet import Entry, SheetColumn, SheetRow, SheetTable

CONVENTIONS = (
    "Distance: squared L2 of normalised features; with flip, those of an image and of its mirror image are added.",
    "Accuracy: in each of ten consecutive folds the threshold (0 to 4 by 0.01, the lowest of equals) is the best of "
    "the other nine; mean and standard deviation over the ten.",
    "VAL at FAR: in each fold the highest threshold (0 to 4 by 0.001) whose FAR on the other nine is not above the one "
    "named; mean and standard deviation over the ten, – where a fold lacks pairs of one kind. facenet's and "
    "insightface's scripts interpolate the threshold between two of these.",
    "AUC and EER: over all pairs at once. EER: the lowest rate that both errors stay within at one threshold.",
    "No intervals: packs do not say whose images they hold.",
)


def packs_table(scores: dict[str, tuple[int, dict[str, PackScores]]], far: float) -> SheetTable:
    """The table of packs by name, each with its number of pairs."""
    columns = [
        SheetColumn(title=title) for title in ("accuracy", "± accuracy", f"VAL at FAR {far:g}", "± VAL", "AUC", "EER")
    ]
    columns.append(SheetColumn(title="pairs", unit="count"))
    rows = []
    for name, (pairs, flips) in scores.items():
        for flip, found in flips.items():
            val = found.validation
            values = [found.ten_fold.accuracy, found.ten_fold.spread]
            values += [val and val.val, val and val.spread, found.auc, found.eer, float(pairs)]
            rows.append(SheetRow(name=f"{name}, {flip}", entries=[Entry(value=value) for value in values]))
    return SheetTable(title="Packs, %", columns=columns, rows=rows)
