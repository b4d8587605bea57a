"""The report: a table for the terminal and README, JSON, and one HTML file that opens by itself."""

import os

from matplotlib.figure import Figure

from megaface_eval.errors import InputError
from megaface_eval.report import plots
from megaface_eval.report.schema import Cell, Interval, MethodReport, Report
from megaface_eval.report.wording import MISSING, percent, size_name
from megaface_eval.settings import Output
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.page.plot import Plot
from recordio_tools.page.rendering import environment

RANKS = (1, 5, 10, 100)
LATEX = {
    "\0": "", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "≥": r"$\geq$",
    "–": "--",
    **{plain: f"\\{plain}" for plain in "%&_#${}"},
}  # fmt: skip


def found_by(method: MethodReport, rank: int) -> float:
    """The share of mates among the first `rank`."""
    return max(
        (recall for at, recall in zip(method.cmc.rank, method.cmc.recall, strict=True) if at < rank), default=0.0
    )


def is_best(methods: list[MethodReport], method: MethodReport, key: str) -> bool:
    """Whether a method's rate is the column's highest as it prints: equal figures are alike; a lone one is not."""
    shown = [float(percent(m.cells[key].rate)) for m in methods if m.cells[key].rate is not None]
    rate = method.cells[key].rate
    return rate is not None and len(shown) > 1 and float(percent(rate)) == max(shown)


def _count(cell: Cell) -> str:
    return MISSING if cell.probes is None else f"n = {cell.probes}"


def _interval(cell: Interval, digits: int = 2) -> str:
    return MISSING if cell.low is None else f"{percent(cell.low, digits)}–{percent(cell.high, digits)}"


def _with_interval(rate: float | None, cell: Interval, digits: int = 2) -> str:
    shown = percent(rate, digits)
    return shown if cell.low is None else f"{shown} ({_interval(cell, digits)})"


def main_table(report: Report, mark: str = "**") -> list[list[str]]:
    """Rows of the table with the columns of the paper's Table 4; the best of each column between two `mark`s."""
    columns, methods = report.columns, report.methods
    rows = [["Rank-1, %", *(column.title for column in columns)]]
    for method in methods:
        marks = [mark if is_best(methods, method, column.key) else "" for column in columns]
        rates = [percent(method.cells[column.key].rate) for column in columns]
        rows.append([method.name, *(f"{around}{rate}{around}" for around, rate in zip(marks, rates, strict=True))])
    rows.append(["probes", *(_count(methods[0].cells[column.key]) for column in columns)])
    return rows


def markdown_table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table whose columns line up in a terminal too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    first, *others = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"| {' | '.join([row[0].ljust(first), *map(str.rjust, row[1:], others)])} |" for row in rows]
    rule = f"|{'|'.join(['-' * (first + 2), *('-' * (width + 1) + ':' for width in others)])}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def further_tables(report: Report) -> list[list[list[str]]]:
    """Further tables: rank-k; verification and its thresholds; open set under every rejection score."""
    rows = [["Rank-k, %", *(f"rank-{rank}" for rank in RANKS)]]
    tables = [rows + [[m.name, *(percent(found_by(m, rank)) for rank in RANKS)] for m in report.methods]]
    measured = [(m.name, m.verification) for m in report.methods if m.verification]
    if measured:
        levels = measured[0][1].tar_at_far
        rows = [["TAR, % at FAR", *(f"{level.far:.0e}".replace("e-0", "e-") for level in levels), "EER, %"]]
        for name, found in measured:
            rates = [_with_interval(level.tar, level) for level in found.tar_at_far]
            rows.append([name, *rates, percent(found.eer)])
        tables.append(rows)
        if any(level.threshold is not None for _, found in measured for level in found.tar_at_far):
            rows = [["Threshold at FAR", *rows[0][1:-1]]]
            for name, found in measured:
                held = [level.threshold for level in found.tar_at_far]
                rows.append([name, *(MISSING if one is None else f"{one:.4f}" for one in held)])
            tables.append(rows)
    measured = [(m.name, m.open_set) for m in report.methods if m.open_set]
    if measured:
        levels = measured[0][1]["cosine"].tpir_at_fpir
        rows = [["TPIR, % at FPIR", *(f"{level.fpir:g} {part}" for level in levels for part in ("G1", "G2", "mean"))]]
        for method, opened in measured:
            for name, found in opened.items():
                label = method if name == "cosine" else f"{method}, by {name}"
                cells = []
                for level in found.tpir_at_fpir:
                    cells += [percent(level.g1), percent(level.g2), _with_interval(level.mean, level)]
                rows.append([label, *cells])
        tables.append(rows)
    return [*tables, *quality_tables(report), *fairness_tables(report)]


def quality_tables(report: Report) -> list[list[list[str]]]:
    """Errors as images are rejected, a row for each method, quality and error; none where not measured."""
    named = [(m.name, name, found) for m in report.methods for name, found in (m.quality or {}).items()]
    if not named:
        return []
    shares = [f"{100 * at.share:g} %" for at in named[0][2].rank1.at]
    rows = [["Error, % by images rejected", *shares, "mean to 20 %", "over that at 0 %"]]
    for method, name, found in named:
        for error, reject in ((f"FNMR at {found.fmr:g}", found.false_non_match), ("rank-1", found.rank1)):
            cells = [_with_interval(at.rate, at) for at in reject.at]
            relative = MISSING if reject.relative is None else f"{reject.relative:.2f}"
            rows.append([f"{method}, {name}: {error}", *cells, percent(reject.mean), relative])
    return [rows]


def fairness_tables(report: Report) -> list[list[list[str]]]:
    """Errors by sub-group, a row for each method and sub-group; none where not measured."""
    measured = [(m.name, m.fairness) for m in report.methods if m.fairness]
    if not measured:
        return []
    head = f"Errors, % at FMR {100 * measured[0][1].fmr:g} % of all"
    rows = [[head, "identities", "false non-match", "mated pairs", "false match", "non-mated pairs"]]
    for method, found in measured:
        for one in found.groups:
            missed, matched = one.false_non_match, one.false_match
            cells = [_with_interval(missed.rate, missed), f"{missed.pairs:,}"]
            cells += [_with_interval(matched.rate, matched, 4), f"{matched.pairs:,}"]
            rows.append([f"{method}: {one.group}", f"{one.identities:,}", *cells])
    return [rows]


def to_markdown(report: Report) -> str:
    """The table, its intervals, the differences between methods and the conventions, in Markdown."""
    size = report.gallery.size
    parts = [f"Identification among {size:,} distractors.", markdown_table(main_table(report))]
    intervals = [["95 % interval", *(column.title for column in report.columns)]]
    intervals += [[m.name, *(_interval(m.cells[column.key]) for column in report.columns)] for m in report.methods]
    parts.append(markdown_table(intervals))
    parts += [markdown_table(rows) for rows in further_tables(report)]
    for title, lines in (("Differences", report.statements), ("Conventions", report.conventions)):
        if lines:
            parts.append(f"{title}:\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def to_latex(report: Report) -> str:
    """The table for LaTeX (booktabs), the best of each column in bold."""
    rows = main_table(report, mark="\0")

    def cell(text: str) -> str:
        bold = text.startswith("\0")
        text = "".join(LATEX.get(letter, letter) for letter in text)
        return rf"\textbf{{{text}}}" if bold else text

    lines = [" & ".join(cell(text) for text in row) + r" \\" for row in rows]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:-1], r"\midrule", lines[-1], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", *body, r"\end{tabular}"]) + "\n"


def to_html(report: Report, figures: list[Plot]) -> str:
    """One HTML file: style, figures and thumbnails are inside it."""
    page = environment("megaface_eval", "report")
    page.globals.update(percent=percent, interval=_interval, count=_count, is_best=is_best)
    page.globals.update(size_name=size_name, further=further_tables(report))
    return page.get_template("report.html.jinja").render(report=report, figures=figures)


def check_output(output: Output) -> None:
    """Raise InputError if the output exists and may not be replaced, or cannot be made."""
    path = output.folder
    if os.path.lexists(path) and not output.force:
        raise InputError(f"{path} exists; choose another --output or give --force to replace it")
    if os.path.lexists(path) and not (path.is_dir() and (path / "report.json").is_file()):
        raise InputError(f"{path} is not a report; --force replaces only a folder with a report.json")
    check_writable(path, force=True, folder=True)


def write_report(report: Report, figures: dict[str, Figure], output: Output, extras: dict[str, bytes]) -> None:
    """Write the report's folder, whole or not at all.

    figures: those of `plots.draw`, written as SVG and CSV too; `cmc` also as cmc.png. extras: file name to content.
    """
    drawn = plots.on_page(report, figures)
    files = {
        "report.json": report.to_json(indent=1) + "\n",
        "report.html": to_html(report, drawn),
        "table.md": to_markdown(report),
        "table.tex": to_latex(report),
    }
    for plot in drawn:
        files |= {f"figures/{plot.key}.svg": plot.alone, f"figures/{plot.key}.csv": plot.csv}
    with output_folder(output.folder, force=output.force) as folder:
        (folder / "figures").mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "cmc.png").write_bytes(plots.to_png(figures["cmc"]))
        for name, content in extras.items():
            (folder / name).write_bytes(content)
