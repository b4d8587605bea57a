"""Figures of a report, drawn with matplotlib."""

import io
from collections.abc import Sized
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from megaface_eval.report.curves import figure_rows
from megaface_eval.report.schema import ColumnHead, MethodReport, OpenSet, Report, Verification
from megaface_eval.report.wording import percent, size_name
from recordio_tools.page.plot import Plot, to_csv
from recordio_tools.plot_style import COLOURS, EDGE, INK, STYLE, legend_below

STYLED = matplotlib.rc_context(STYLE)
# of each figure: what it is, and what it shows
CAPTIONS = {
    "cmc": ("Cumulative match", "Share of mates found at each rank or before it, in the largest gallery."),
    "sizes": ("Rank-1 by size of the gallery", "Rank-1 among ever more distractors; band: 95 % interval."),
    "roc": ("Verification", "Share of mated pairs accepted (TAR) against that of non-mated pairs (FAR)."),
    "open-set": ("Open set", "Mated probes found (TPIR) against strangers let in (FPIR), mean of G1 and G2."),
    "bars": ("Rank-1 by pseudo-shots and sub-groups", "The table's columns; whiskers: 95 % interval."),
    "quality": ("Error against reject", "Errors as the images of worst quality are rejected, at one threshold."),
    "fairness": ("Errors by sub-group", "Both errors of each sub-group at one threshold; whiskers: 95 % interval."),
    "scores": ("Scores", "Scores of mates, of two people's probes, and of each probe's nearest distractor."),
}
LINES = ("-", "--", ":", "-.")  # of what is told apart within a method
WHOLE = ("bars", "quality", "fairness")


def draw(report: Report) -> dict[str, Figure]:
    """Every figure by name, drawn from the report's contents alone; none for a protocol that was not run."""
    methods = report.methods
    figures = {"cmc": cmc_figure(methods, report.gallery.size), "sizes": sizes_figure(methods)}
    verified = {m.name: m.verification for m in methods if m.verification and m.verification.eer is not None}
    if verified:
        figures["roc"] = roc_figure(verified)
    opened = {
        m.name: m.open_set for m in methods if m.open_set and all(curve.fpir for curve in m.open_set["cosine"].curves)
    }
    if opened:
        figures["open-set"] = open_set_figure(opened)
    figures["bars"] = bars_figure(methods, report.columns)
    if any(method.quality for method in methods):
        figures["quality"] = quality_figure(methods)
    if any(method.fairness for method in methods):
        figures["fairness"] = fairness_figure(methods)
    figures["scores"] = scores_figure(methods)
    return figures


def on_page(report: Report, figures: dict[str, Figure]) -> list[Plot]:
    """Figures as the page holds them, with the numbers behind them."""
    plots = []
    for key, figure in figures.items():
        title, caption = CAPTIONS[key]
        rows = to_csv(figure_rows(report, key))
        plots.append(Plot.of(figure, key, title, caption, csv=rows, whole=key in WHOLE))
    return plots


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, 160 dots an inch."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=160)
    return data.getvalue()


def _plain(name: str) -> str:
    """A name as matplotlib shows it: no formula between dollar signs, and not left out for beginning with _."""
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


def _axes(width: float = 6.0, height: float = 3.8):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    return figure, axes


def _percent(axes, which: str = "y") -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def _sizes_on(axes, sizes: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [size_name(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())


@STYLED
def cmc_figure(methods: list[MethodReport], gallery: int) -> Figure:
    """CMC of every method in the largest gallery; rank on a log axis, to the end of the gallery."""
    figure, axes = _axes()
    for method, colour in zip(methods, _colours(methods), strict=True):
        curve = method.cmc
        rank = np.append(np.asarray(curve.rank) + 1, gallery + 1)
        recall = np.append(curve.recall, curve.recall[-1])
        label = f"{_plain(method.name)} ({100 * recall[0]:.2f})"
        axes.step(rank, recall, where="post", color=colour, label=label, linewidth=1.8)
    axes.set(xscale="log", xlim=(1, gallery + 1), xlabel="rank", ylabel="mates found, %")
    axes.set_title(f"Cumulative match, {size_name(gallery)} distractors (rank-1, %)")
    _percent(axes)
    axes.set_ylim(top=1.005)
    legend_below(figure)
    return figure


@STYLED
def sizes_figure(methods: list[MethodReport]) -> Figure:
    """Rank-1 against the size of the gallery, with 95 % intervals."""
    figure, axes = _axes()
    for method, colour in zip(methods, _colours(methods), strict=True):
        x = [size.gallery for size in method.sizes]
        rate, low, high = (
            np.array([getattr(size, part) for size in method.sizes], float) for part in ("rate", "low", "high")
        )
        axes.plot(x, rate, color=colour, marker="o", markersize=4, label=_plain(method.name))
        if np.isfinite(low).all():
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    _sizes_on(axes, [size.gallery for size in methods[0].sizes])
    axes.set(xlabel="distractors", ylabel="rank-1, %", title="Rank-1 as the gallery grows (band: 95 % interval)")
    _percent(axes)
    legend_below(figure)
    return figure


@STYLED
def bars_figure(methods: list[MethodReport], columns: list[ColumnHead]) -> Figure:
    """Rank-1 of every measured column, with 95 % intervals; an empty column says so."""
    shown = [c for c in columns if any(m.cells[c.key].probes is not None for m in methods)]
    width = 0.8 / len(methods)
    figure, axes = _axes(max(7.0, 1.1 * len(shown)))
    for i, (method, colour) in enumerate(zip(methods, _colours(methods), strict=True)):
        for x, column in enumerate(shown):
            cell, at = method.cells[column.key], x + (i - (len(methods) - 1) / 2) * width
            if cell.rate is None:
                axes.text(at, 0, "n = 0", ha="center", va="bottom", color=INK, fontsize=8)
                continue
            label = _plain(method.name) if x == _first(method, shown) else None
            axes.bar(at, cell.rate, width * 0.92, color=colour, label=label)
            if cell.low is not None and cell.high is not None:
                ends = [[max(cell.rate - cell.low, 0)], [max(cell.high - cell.rate, 0)]]
                axes.errorbar(at, cell.rate, ends, color=INK, capsize=3, linewidth=1)
    axes.set_xticks(range(len(shown)), [_plain(column.title) for column in shown])
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="rank-1, %", ylim=(0, 1.0), title="Rank-1 by pseudo-shots and sub-groups")
    _percent(axes)
    if len(methods) > 1:
        legend_below(figure)
    return figure


@STYLED
def roc_figure(verified: dict[str, Verification]) -> Figure:
    """TAR of every method (by name) against FAR, FAR on a log axis."""
    figure, axes = _axes()
    for (method, found), colour in zip(verified.items(), _colours(verified), strict=True):
        label = f"{_plain(method)} (EER {percent(found.eer)})"
        axes.step(found.roc.far, found.roc.tar, where="post", color=colour, label=label, linewidth=1.8)
    axes.set(xscale="log", xlabel="FAR", ylabel="TAR, %", title="Verification of probe pairs (EER, %)")
    _percent(axes)
    axes.set_ylim(top=1.005)
    legend_below(figure)
    return figure


@STYLED
def open_set_figure(opened: dict[str, dict[str, OpenSet]]) -> Figure:
    """TPIR of every method (by name) against FPIR, mean of both galleries, under the cosine and any rejection score."""
    figure, axes = _axes()
    for (method, scores), colour in zip(opened.items(), _colours(opened), strict=True):
        for (name, measured), line in zip(scores.items(), cycle(LINES), strict=False):
            one, two = measured.curves
            fpir = np.unique(np.concatenate([one.fpir, two.fpir]))
            fpir = fpir[fpir >= max(one.fpir[0], two.fpir[0])]
            tpir = np.mean([_step_at(fpir, part.fpir, part.tpir) for part in (one, two)], axis=0)
            label = _plain(method if name == "cosine" else f"{method}, {name}")
            axes.step(fpir, tpir, where="post", color=colour, linestyle=line, label=label, linewidth=1.8)
    axes.set(xscale="log", xlabel="FPIR", ylabel="TPIR at rank 1, %", title="Open set: strangers at the door")
    _percent(axes)
    axes.set_ylim(top=1.005)
    legend_below(figure)
    return figure


@STYLED
def quality_figure(methods: list[MethodReport]) -> Figure:
    """False non-match and rank-1 error against the share of images rejected, by method and quality."""
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, 2))
    for method, colour in zip(methods, _colours(methods), strict=True):
        for (name, found), line in zip((method.quality or {}).items(), cycle(LINES), strict=False):
            label = _plain(f"{method.name}, {name}")
            for axes, reject in zip(panels, (found.false_non_match, found.rank1), strict=True):
                curve = reject.curve
                x, y = curve.share, curve.error
                axes.step(x, y, where="post", color=colour, linestyle=line, linewidth=1.8, label=label)
    fmr = next(found.fmr for method in methods for found in (method.quality or {}).values())
    for axes, title in zip(panels, (f"False non-match at FMR {fmr:g}", "Rank-1 error"), strict=True):
        axes.set(xlabel="images rejected, %", ylabel="error, %", ylim=(0, None), title=title)
        _percent(axes, "x")
        _percent(axes)
    legend_below(figure)
    return figure


@STYLED
def fairness_figure(methods: list[MethodReport]) -> Figure:
    """Both errors of every sub-group with 95 % intervals, a point for each method."""
    measured = [(m, m.fairness, c) for m, c in zip(methods, _colours(methods), strict=True) if m.fairness]
    titles = list(dict.fromkeys(one.group for _, found, _ in measured for one in found.groups))
    figure = Figure(figsize=(10.0, 1.4 + 0.36 * len(titles) * max(len(measured), 2) ** 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, 2, sharey=True))
    for number, (method, found, colour) in enumerate(measured):
        offset = (number - (len(measured) - 1) / 2) * 0.6 / len(measured)
        for axes, field in zip(panels, ("false_non_match", "false_match"), strict=True):
            shown = [(titles.index(g.group), getattr(g, field)) for g in found.groups]
            shown = [(at + offset, rate) for at, rate in shown if rate.rate is not None]
            x, y = [rate.rate for _, rate in shown], [at for at, _ in shown]
            axes.plot(x, y, "o", markersize=5, color=colour, label=_plain(method.name))
            for at, rate in shown:
                if rate.low is not None and rate.high is not None:
                    axes.hlines(at, rate.low, rate.high, color=colour, linewidth=1.4)
    fmr = measured[0][1].fmr
    for axes, title in zip(
        panels, ("False non-match", f"False match within the group (all: {100 * fmr:g} %)"), strict=True
    ):
        axes.set(title=title, xlabel="error, %", xlim=(0, None))
        _percent(axes, "x")
    panels[1].axvline(fmr, color=EDGE, linewidth=1, linestyle=":")
    panels[0].set_yticks(range(len(titles)), [_plain(title) for title in titles])
    panels[0].set_ylim(len(titles) - 0.5, -0.5)
    if len(measured) > 1:
        legend_below(figure)
    return figure


def _step_at(x: np.ndarray, steps: list[float], values: list[float]) -> np.ndarray:
    return np.asarray(values)[np.searchsorted(steps, x, side="right") - 1]


@STYLED
def scores_figure(methods: list[MethodReport]) -> Figure:
    """Distributions of mates' scores, of pairs of different people, and of each probe's nearest distractor."""
    kinds = (
        ("mates", "mates"),
        ("impostors", "two people's probes"),
        ("nearest", "nearest distractor"),
    )
    figure = Figure(figsize=(6.0, 1.2 + 2.4 * len(methods)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
    shown = [getattr(m.scores, kind) for m in methods for kind, _ in kinds]
    edges = np.asarray(methods[0].scores.edges)
    used = np.flatnonzero(np.sum(shown, axis=0) > 1e-4)
    for axes, method in zip(panels, methods, strict=True):
        for (kind, title), colour in zip(kinds, ("#2e7d32", "#5c6770", "#d1495b"), strict=True):
            share = getattr(method.scores, kind)
            axes.stairs(share, edges, color=colour, label=title, linewidth=1.4)
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.12)
        axes.set(ylabel="share of scores", title=f"Scores: {_plain(method.name)}", ylim=(0, None))
    if len(used):
        panels[-1].set_xlim(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(edges) - 1)])
    panels[-1].set_xlabel("score")
    legend_below(figure)
    return figure


def _first(method: MethodReport, columns: list[ColumnHead]) -> int:
    return next((x for x, column in enumerate(columns) if method.cells[column.key].rate is not None), -1)


def _colours(methods: Sized) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(methods))]
