"""The report as a folder: one HTML page that opens by itself, the table, JSON, and the results of every class."""

from pathlib import Path

from facelt.open_world.report import plots, table
from facelt.open_world.report.comparing import OtherReport
from facelt.open_world.report.per_class import FILE, PerClass
from facelt.open_world.report.schema import Report
from facelt.open_world.report.trial import Trial
from recordio_tools.page.plot import Plot
from recordio_tools.page.rendering import environment

FILES = ("report.html", "report.json", "table.md", FILE)


def write(folder: Path, report: Report, trial: Trial, other: OtherReport | None = None) -> None:
    """Fill an empty folder with `FILES`. other: what the report was compared with."""
    per_class = PerClass.of(trial)
    gains = {} if other is None else other.gains(per_class)
    drawn = plots.on_page(plots.draw(report, trial, gains))
    texts = {
        "report.html": to_html(report, trial, drawn),
        "report.json": report.model_dump_json(indent=1) + "\n",
        "table.md": table.to_markdown(report, trial.bounds) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    per_class.write(folder)


def to_html(report: Report, trial: Trial, figures: list[Plot]) -> str:
    """The page; style and figures are inside it."""
    template = environment("facelt", "open_world/report").get_template("report.html.jinja")
    facts = {name: value for name, value in report.source if value is not None}
    return template.render(report=report, tables=table.tables(report, trial.bounds), figures=figures, facts=facts)
