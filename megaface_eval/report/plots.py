"""Figures of a report, drawn with matplotlib."""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

COLOURS = ("#0b6e99", "#d1495b", "#2e7d32", "#b07d00", "#6a4c93", "#5c6770", "#e07a1f", "#008080")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9dde1",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#8a939b",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def size_name(size: int) -> str:
    """1M, 100K, 2.5K, 10."""
    for unit, letter in ((1_000_000, "M"), (1_000, "K")):
        if size >= unit and size % (unit // 10) == 0:
            return f"{size / unit:g}{letter}"
    return f"{size:,}"


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML prologue."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


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
    axes.set_axisbelow(True)
    return figure, axes


def _percent(axes, which: str = "y") -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def _sizes_on(axes, sizes: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [size_name(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())


def cmc_figure(methods: list[dict], gallery: int) -> Figure:
    """CMC of every method in the largest gallery; rank on a log axis, to the end of the gallery."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for method, colour in zip(methods, _colours(methods), strict=True):
            curve = method["cmc"]
            rank = np.append(np.asarray(curve["rank"]) + 1, gallery + 1)
            recall = np.append(curve["recall"], curve["recall"][-1])
            label = f"{_plain(method['name'])} ({100 * recall[0]:.2f})"
            axes.step(rank, recall, where="post", color=colour, label=label, linewidth=1.8)
        axes.set(xscale="log", xlim=(1, gallery + 1), xlabel="rank", ylabel="mates found, %")
        axes.set_title(f"Cumulative match, {size_name(gallery)} distractors (rank-1, %)")
        _percent(axes)
        axes.set_ylim(top=1.005)
        axes.legend(loc="lower right")
    return figure


def sizes_figure(methods: list[dict]) -> Figure:
    """Rank-1 against the size of the gallery, with 95 % intervals."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for method, colour in zip(methods, _colours(methods), strict=True):
            rows = method["sizes"]
            x, y = [row["gallery"] for row in rows], [row["rate"] for row in rows]
            axes.plot(x, y, color=colour, marker="o", markersize=4, label=_plain(method["name"]))
            if all(row["low"] is not None for row in rows):
                band = [[row[end] for row in rows] for end in ("low", "high")]
                axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
        _sizes_on(axes, [row["gallery"] for row in methods[0]["sizes"]])
        axes.set(xlabel="distractors", ylabel="rank-1, %", title="Rank-1 as the gallery grows (band: 95 % interval)")
        _percent(axes)
        axes.legend(loc="lower left")
    return figure


def bars_figure(methods: list[dict], columns: list[dict]) -> Figure:
    """Rank-1 of every measured column, with 95 % intervals; an empty column says so."""
    shown = [c for c in columns if any(m["cells"][c["key"]]["probes"] is not None for m in methods)]
    width = 0.8 / len(methods)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(max(7.0, 1.1 * len(shown)))
        for i, (method, colour) in enumerate(zip(methods, _colours(methods), strict=True)):
            for x, column in enumerate(shown):
                cell, at = method["cells"][column["key"]], x + (i - (len(methods) - 1) / 2) * width
                if cell["rate"] is None:
                    axes.text(at, 0, "n = 0", ha="center", va="bottom", color="#8a939b", fontsize=8)
                    continue
                label = _plain(method["name"]) if x == _first(method, shown) else None
                axes.bar(at, cell["rate"], width * 0.92, color=colour, label=label)
                if cell["low"] is not None:
                    ends = [[max(cell["rate"] - cell["low"], 0)], [max(cell["high"] - cell["rate"], 0)]]
                    axes.errorbar(at, cell["rate"], ends, color="#2b3238", capsize=3, linewidth=1)
        axes.set_xticks(range(len(shown)), [_plain(column["title"]) for column in shown])
        axes.grid(axis="x", visible=False)
        axes.set(ylabel="rank-1, %", ylim=(0, 1.0), title="Rank-1 by pseudo-shots and sub-groups")
        _percent(axes)
        if len(methods) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return figure


def roc_figure(methods: list[dict]) -> Figure:
    """TAR against FAR, FAR on a log axis."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for method, colour in zip(methods, _colours(methods), strict=True):
            curve = method["verification"]["roc"]
            label = f"{_plain(method['name'])} (EER {100 * method['verification']['eer']:.2f})"
            axes.step(curve["far"], curve["tar"], where="post", color=colour, label=label, linewidth=1.8)
        axes.set(xscale="log", xlabel="FAR", ylabel="TAR, %", title="Verification of probe pairs (EER, %)")
        _percent(axes)
        axes.set_ylim(top=1.005)
        axes.legend(loc="lower right")
    return figure


def open_set_figure(methods: list[dict]) -> Figure:
    """TPIR against FPIR, mean of both galleries, under the cosine and any rejection score."""
    styles = ("-", "--", ":", "-.")
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for method, colour in zip(methods, _colours(methods), strict=True):
            for (name, measured), line in zip(
                method["open_set"].items(), styles * len(method["open_set"]), strict=False
            ):
                one, two = measured["curves"]
                fpir = np.unique(np.concatenate([one["fpir"], two["fpir"]]))
                fpir = fpir[fpir >= max(one["fpir"][0], two["fpir"][0])]
                tpir = np.mean([_step_at(fpir, part["fpir"], part["tpir"]) for part in (one, two)], axis=0)
                label = _plain(method["name"] if name == "cosine" else f"{method['name']}, {name}")
                axes.step(fpir, tpir, where="post", color=colour, linestyle=line, label=label, linewidth=1.8)
        axes.set(xscale="log", xlabel="FPIR", ylabel="TPIR at rank 1, %", title="Open set: strangers at the door")
        _percent(axes)
        axes.set_ylim(top=1.005)
        axes.legend(loc="best")
    return figure


def _step_at(x: np.ndarray, steps: list[float], values: list[float]) -> np.ndarray:
    return np.asarray(values)[np.searchsorted(steps, x, side="right") - 1]


def scores_figure(methods: list[dict]) -> Figure:
    """Distributions of mates' scores, of pairs of different people, and of each probe's nearest distractor."""
    kinds = (
        ("mates", "mates"),
        ("impostors", "two people's probes"),
        ("nearest", "nearest distractor"),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 1.2 + 2.4 * len(methods)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
        shown = [m["scores"][kind] for m in methods for kind, _ in kinds]
        edges = np.asarray(methods[0]["scores"]["edges"])
        used = np.flatnonzero(np.sum(shown, axis=0) > 1e-4)
        for axes, method in zip(panels, methods, strict=True):
            for (kind, title), colour in zip(kinds, ("#2e7d32", "#5c6770", "#d1495b"), strict=True):
                share = method["scores"][kind]
                axes.stairs(share, edges, color=colour, label=title, linewidth=1.4)
                axes.stairs(share, edges, color=colour, fill=True, alpha=0.12)
            axes.set(ylabel="share of scores", title=f"Scores: {_plain(method['name'])}", ylim=(0, None))
            axes.legend(loc="best")
        if len(used):
            panels[-1].set_xlim(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(edges) - 1)])
        panels[-1].set_xlabel("score")
    return figure


def _first(method: dict, columns: list[dict]) -> int:
    return next((x for x, column in enumerate(columns) if method["cells"][column["key"]]["rate"] is not None), -1)


def _colours(methods: list[dict]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(methods))]
