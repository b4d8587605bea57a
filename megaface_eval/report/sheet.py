"""A sheet: tables and curves of any protocol, written as report.json, figures.csv, table.md and one HTML page.

The models are what report.json holds. Rates and intervals are shares from 0 to 1; None where not measured.
"""

import argparse
import csv
import io
import json
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from megaface_eval.errors import InputError
from megaface_eval.report.plots import to_png
from megaface_eval.report.schema import Curve, Interval, Part
from megaface_eval.report.tables import markdown_table
from megaface_eval.report.wording import MISSING, percent
from megaface_eval.settings import Output
from recordio_tools.atomic import output_folder
from recordio_tools.plot_style import COLOURS, STYLE, legend_below

CSV_HEAD = ("table", "row", "column", "value", "low", "high", "threshold")
CURVE_HEAD = ("curve", "row", "x", "y", "threshold")


class Entry(Interval):
    """One figure, its interval, and the threshold that it was taken at."""

    value: float | None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None


class SheetRow(Part):
    """A line of a table; an entry for each column."""

    name: str
    entries: list[Entry]


class SheetColumn(Part):
    """A column: `%` shows shares in per cent, `number` plain numbers, `count` whole ones."""

    title: str
    unit: Literal["%", "number", "count"] = "%"


class SheetTable(Part):
    """A table."""

    title: str
    columns: Annotated[list[SheetColumn], Field(min_length=1)]
    rows: Annotated[list[SheetRow], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self):
        for row in self.rows:
            if len(row.entries) != len(self.columns):
                raise ValueError(f"row {row.name!r} has {len(row.entries)} entries for {len(self.columns)} columns")
        return self


class SheetCurve(Curve):
    """A curve, by the name of what it shows and of its row; `threshold` may be empty."""

    shows: str
    name: str
    x: list[float]
    y: list[float]
    thresholds: list[float | None]


class Sheet(Part):
    """report.json of a sheet. kind: which protocol."""

    format: Literal[1]
    kind: str
    title: str
    made: str
    command: str
    versions: dict[str, str]
    settings: dict[str, Any]
    tables: Annotated[list[SheetTable], Field(min_length=1)]
    curves: list[SheetCurve]
    conventions: list[str]

    def to_json(self, indent: int | None = None) -> str:
        """The sheet as JSON."""
        return json.dumps(self.model_dump(), indent=indent, allow_nan=False)


def made_now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """What computed the figures."""
    return {"python": sys.version.split()[0], "numpy": np.__version__, "matplotlib": matplotlib.__version__}


def command_of(module: str, arguments: list[str]) -> str:
    """What to type to do the same again. Raises InputError for what cannot be quoted."""
    command = shlex.join(["python", "-m", module, *arguments])
    if not command.isascii() and command != command.encode(errors="replace").decode():
        raise InputError("a name on the command line is not UTF-8; a report could not quote it: rename it")
    return command


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options of where a sheet goes."""
    add = parser.add_argument
    add("--output", metavar="REPORT", type=Path, default=Path("report"), help="folder of the report (report)")
    add("--force", action="store_true", help="replace an existing report")
    add("--json", action="store_true", help="print report.json instead of the tables")


def output_of(options: argparse.Namespace) -> Output:
    """Where it goes, from such options."""
    return Output(folder=options.output, force=options.force, devkit_results=False, json=options.json)


def curve_of(shows: str, name: str, points: tuple[np.ndarray, np.ndarray], thresholds: np.ndarray) -> SheetCurve:
    """A curve from its points (x and y) and thresholds, infinite ones left out."""
    held = [float(one) if np.isfinite(one) else None for one in thresholds]
    x, y = (np.asarray(part, float).tolist() for part in points)
    return SheetCurve(shows=shows, name=name, x=x, y=y, thresholds=held)


def shown(entry: Entry, unit: str) -> str:
    """A figure as tables have it."""
    if entry.value is None:
        return MISSING
    return {"%": percent(entry.value), "count": f"{entry.value:,.0f}", "number": f"{entry.value:.4f}"}[unit]


def interval(entry: Entry, unit: str) -> str:
    """An interval as tables have it; empty where there is none."""
    if entry.low is None or entry.high is None:
        return ""
    return "–".join(shown(Entry(value=end), unit) for end in (entry.low, entry.high))


def table_rows(table: SheetTable) -> list[list[str]]:
    """A table as texts, without intervals."""
    units = [column.unit for column in table.columns]
    rows = [[table.title, *(column.title for column in table.columns)]]
    for row in table.rows:
        rows.append([row.name, *(shown(entry, unit) for entry, unit in zip(row.entries, units, strict=True))])
    return rows


def to_markdown(sheet: Sheet) -> str:
    """All tables and the conventions."""
    parts = [f"{sheet.title}.", *(markdown_table(table_rows(table)) for table in sheet.tables)]
    return "\n\n".join([*parts, "Conventions:\n\n" + "\n".join(f"- {line}" for line in sheet.conventions)]) + "\n"


def to_csv(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Lines of values at full precision, None empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def figures_csv(sheet: Sheet) -> str:
    """Every figure of every table, a line each."""
    return to_csv(
        CSV_HEAD,
        (
            (table.title, row.name, column.title, entry.value, entry.low, entry.high, entry.threshold)
            for table in sheet.tables
            for row in table.rows
            for column, entry in zip(table.columns, row.entries, strict=True)
        ),
    )


def curves_csv(sheet: Sheet) -> str:
    """Every point of every curve, a line each."""
    return to_csv(
        CURVE_HEAD,
        (
            (curve.shows, curve.name, *point)
            for curve in sheet.curves
            for point in zip(curve.x, curve.y, curve.thresholds, strict=True)
        ),
    )


def to_html(sheet: Sheet, figures: dict[str, str]) -> str:
    """One HTML file with figures inside."""
    page = Environment(
        loader=PackageLoader("megaface_eval", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.globals.update(shown=shown, interval=interval)
    return page.get_template("sheet.html.jinja").render(sheet=sheet, figures=figures)


@matplotlib.rc_context(STYLE)
def draw_curves(curves: list[SheetCurve], labels: tuple[str, str], logarithmic: tuple[bool, bool]) -> Figure:
    """Curves of one kind as steps. labels: of both axes; those with % show shares in per cent."""
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    points = [
        [np.array(part) * (100 if "%" in label else 1) for part, label in zip((c.x, c.y), labels, strict=True)]
        for c in curves
    ]
    # a logarithmic axis needs something to show: errors may all be 0
    logs = [wanted and any((part[at] > 0).any() for part in points) for at, wanted in enumerate(logarithmic)]
    for i, (curve, (x, y)) in enumerate(zip(curves, points, strict=True)):
        inside = (x > 0 if logs[0] else x == x) & (y > 0 if logs[1] else y == y)
        label = (" " + curve.name if curve.name.startswith("_") else curve.name).replace("$", r"\$")
        axes.step(x[inside], y[inside], where="post", color=COLOURS[i % len(COLOURS)], linewidth=1.8, label=label)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=curves[0].shows)
    scales = ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale))
    for (axis, scale), is_log in zip(scales, logs, strict=True):
        if is_log:
            scale("log")
            axis.set_major_formatter(lambda value, _: f"{value:g}")
    legend_below(figure)
    return figure


def inline_svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML prologue."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def write_sheet(sheet: Sheet, figures: dict[str, Figure], output: Output) -> None:
    """Write the folder, whole or not at all; each figure also as PNG."""
    files = {
        "report.json": sheet.to_json(indent=1) + "\n",
        "report.html": to_html(sheet, {name: inline_svg(figure) for name, figure in figures.items()}),
        "table.md": to_markdown(sheet),
        "figures.csv": figures_csv(sheet),
        "curves.csv": curves_csv(sheet),
    }
    with output_folder(output.folder, force=output.force) as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, figure in figures.items():
            (folder / f"{name}.png").write_bytes(to_png(figure))


def print_sheet(sheet: Sheet, output: Output) -> None:
    """The tables (or the JSON) on stdout, and where the report lies."""
    if output.json:
        print(sheet.to_json())
        return
    print("\n\n".join(markdown_table(table_rows(table)) for table in sheet.tables))
    print(f"report: {output.folder / 'report.html'}")
