"""The numbers that each figure shows, as rows for a CSV file: a heading, then a row a point. Rates are shares."""

from collections.abc import Callable, Iterator
from typing import Any

from megaface_eval.report.schema import Report

Rows = Iterator[list[Any]]


def figure_rows(report: Report, key: str) -> list[list[Any]]:
    """The rows of the figure of this name, one of those that `plots.draw` may draw."""
    return list(ROWS[key](report))


def _cmc(report: Report) -> Rows:
    yield ["method", "rank", "recall"]
    for method in report.methods:
        yield from ([method.name, rank + 1, recall] for rank, recall in zip(*_values(method.cmc), strict=True))


def _sizes(report: Report) -> Rows:
    yield ["method", "distractors", "rank1", "low", "high"]
    for method in report.methods:
        yield from ([method.name, one.gallery, one.rate, one.low, one.high] for one in method.sizes)


def _roc(report: Report) -> Rows:
    yield ["method", "far", "tar", "threshold"]
    for method in report.methods:
        if method.verification:
            roc = method.verification.roc
            thresholds = roc.threshold or [None] * len(roc.far)  # of an older report
            yield from ([method.name, *point] for point in zip(roc.far, roc.tar, thresholds, strict=True))


def _open_set(report: Report) -> Rows:
    yield ["method", "score", "gallery", "fpir", "tpir"]
    for method in report.methods:
        for score, found in (method.open_set or {}).items():
            for name, curve in zip(("G1", "G2"), found.curves, strict=True):
                yield from ([method.name, score, name, *point] for point in zip(*_values(curve), strict=True))


def _bars(report: Report) -> Rows:
    yield ["method", "column", "rank1", "low", "high", "probes"]
    for method in report.methods:
        for column in report.columns:
            cell = method.cells[column.key]
            yield [method.name, column.title, cell.rate, cell.low, cell.high, cell.probes]


def _scores(report: Report) -> Rows:
    yield ["method", "from", "to", "mates", "impostors", "nearest"]
    for method in report.methods:
        found = method.scores
        shares = zip(found.mates, found.impostors, found.nearest, strict=True)
        for low, high, share in zip(found.edges[:-1], found.edges[1:], shares, strict=True):
            yield [method.name, low, high, *share]


def _quality(report: Report) -> Rows:
    yield ["method", "quality", "error", "share_rejected", "rate"]
    for method in report.methods:
        for name, found in (method.quality or {}).items():
            for error, reject in (("false non-match", found.false_non_match), ("rank-1", found.rank1)):
                yield from ([method.name, name, error, *point] for point in zip(*_values(reject.curve), strict=True))


def _fairness(report: Report) -> Rows:
    yield ["method", "attribute", "group", "identities", "error", "fmr", "rate", "low", "high", "pairs"]
    for method in report.methods:
        found = method.fairness
        if found is None:
            continue
        for one in found.groups:
            for error, rate in (("false non-match", one.false_non_match), ("false match", one.false_match)):
                group = [method.name, one.attribute, one.group, one.identities, error, found.fmr]
                yield [*group, rate.rate, rate.low, rate.high, rate.pairs]


def _values(curve: Any) -> list[list[float]]:
    """The lists of a curve's points, in the order of its fields."""
    return [getattr(curve, name) for name in type(curve).model_fields]


ROWS: dict[str, Callable[[Report], Rows]] = {
    "cmc": _cmc,
    "sizes": _sizes,
    "roc": _roc,
    "open-set": _open_set,
    "bars": _bars,
    "quality": _quality,
    "fairness": _fairness,
    "scores": _scores,
}
