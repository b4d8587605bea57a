"""The report for people: the same tables in Markdown, for a terminal too, and for the page."""

from dataclasses import dataclass

from facelt.open_world.report.schema import Comparison, Measured, Report, Top1
from facelt.open_world.shots import SHOTS, Bounds

MISSING = "n/a"


@dataclass(frozen=True)
class Table:
    """A table and the sentence above it."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """With columns that also line up as plain text."""
        widths = [max(len(row[i]) for row in [self.head, *self.rows]) for i in range(len(self.head))]
        lines = [
            [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [self.head, *self.rows]
        ]
        lines.insert(1, ["-" * width for width in widths])
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(report: Report, bounds: Bounds) -> list[Table]:
    """Closed and open set, detection of strangers, the comparison; shares in %, with intervals where there are any."""
    made = [_top1(report, bounds), _detection(report)]
    return made if report.comparison is None else [*made, _gains(report.comparison, bounds)]


def to_markdown(report: Report, bounds: Bounds) -> str:
    """All tables in Markdown."""
    return "\n\n".join(table.markdown() for table in tables(report, bounds))


def _top1(report: Report, bounds: Bounds) -> Table:
    shots = [f"{title} ({getattr(report.buckets, shot)})" for shot, title in bounds.titles.items()]
    rows = []
    for reading in report.readings:
        rows.append([reading.name, "closed", *_top1_cells(reading.closed), "", ""])
        for at in reading.open:
            f_measures = [_cell(at.f_measure), _cell(at.f_measure_earlier)]
            rows.append([reading.name, f"open, {at.threshold:g}", *_top1_cells(at.top1), *f_measures])
    known = f"{report.test_images:,} images of {report.test_classes:,} of {report.classes:,} classes"
    strangers = f"{report.open_images:,} images of {report.open_identities:,} strangers"
    return Table(
        f"Top-1 in %, with 95 % intervals over classes: {known}, {strangers}. In brackets: classes.",
        ["read by", "set", "all images", "mean of classes", *shots, "F-measure", "F, earlier form"],
        rows,
    )


def _detection(report: Report) -> Table:
    rows = [[one.signal, _cell(one.auroc), _cell(one.error)] for one in report.detection]
    return Table("Strangers told from known images, in %:", ["signal", "AUROC", "detection error at 95 % TPR"], rows)


def _gains(comparison: Comparison, bounds: Bounds) -> Table:
    rows = [
        [gain.name, *(_cell(getattr(gain, part)) for part in ("by_class", *SHOTS)), _share(gain.strangers)]
        for gain in comparison.gains
    ]
    at, other = comparison.threshold, comparison.other_threshold
    return Table(
        f"F1 less that of {comparison.report}, in points: means over classes, at thresholds {at:g} and {other:g}.",
        ["read by", "mean of classes", *bounds.titles.values(), "strangers as unknown"],
        rows,
    )


def _top1_cells(top1: Top1) -> list[str]:
    return [_cell(getattr(top1, name)) for name in Top1.model_fields]


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _cell(measured: Measured) -> str:
    if measured.low is None or measured.high is None:
        return _share(measured.value)
    return f"{_share(measured.value)} [{_share(measured.low)}, {_share(measured.high)}]"
