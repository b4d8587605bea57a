"""Every figure and every point of every curve of a report, as lines of CSV at full precision."""

from collections.abc import Iterator
from typing import Any

from megaface_eval.report.schema import MethodReport, Report
from megaface_eval.report.sheet import CSV_HEAD, CURVE_HEAD, to_csv
from megaface_eval.report.tables import RANKS, found_by

Line = tuple[Any, ...]


def figures_csv(report: Report) -> str:
    """Every figure of every table, a line each."""
    return to_csv(CSV_HEAD, (line for method in report.methods for line in _figures(report, method)))


def curves_csv(report: Report) -> str:
    """Every point of every curve, a line each."""
    return to_csv(CURVE_HEAD, (line for method in report.methods for line in _points(method)))


def _figures(report: Report, method: MethodReport) -> Iterator[Line]:
    name = method.name
    for column in report.columns:
        cell = method.cells[column.key]
        yield "rank-1", name, column.title, cell.rate, cell.low, cell.high, None
    for rank in RANKS:
        yield "rank-k", name, rank, found_by(method, rank), None, None, None
    for size in method.sizes:
        yield "rank-1 by gallery", name, size.gallery, size.rate, size.low, size.high, None
    if method.verification is not None:
        for level in method.verification.tar_at_far:
            yield "TAR at FAR", name, level.far, level.tar, level.low, level.high, level.threshold
        yield "EER", name, None, method.verification.eer, None, None, None
    for score, opened in (method.open_set or {}).items():
        for level in opened.tpir_at_fpir:
            for part, value in (("G1", level.g1), ("G2", level.g2), ("mean", level.mean)):
                ends = (level.low, level.high) if part == "mean" else (None, None)
                yield f"TPIR at FPIR, {score}, {part}", name, level.fpir, value, *ends, None


def _points(method: MethodReport) -> Iterator[Line]:
    name = method.name
    for rank, recall in zip(method.cmc.rank, method.cmc.recall, strict=True):
        yield "CMC", name, rank + 1, recall, None
    if method.verification is not None:
        roc = method.verification.roc
        thresholds = roc.threshold or [None] * len(roc.far)
        for far, tar, threshold in zip(roc.far, roc.tar, thresholds, strict=True):
            yield "ROC", name, far, tar, threshold
        for far, tar, threshold in zip(roc.far, roc.tar, thresholds, strict=True):
            yield "DET", name, far, 1 - tar, threshold
    for score, opened in (method.open_set or {}).items():
        for gallery, curve in zip(("G1", "G2"), opened.curves, strict=True):
            for fpir, tpir in zip(curve.fpir, curve.tpir, strict=True):
                yield f"TPIR, {score}, {gallery}", name, fpir, tpir, None
