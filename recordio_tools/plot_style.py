"""How plots look in all three packages: colours of lines, and a style for `matplotlib.rc_context`."""

from typing import Any

COLOURS = ("#0b6e99", "#d1495b", "#2e7d32", "#b07d00", "#6a4c93", "#5c6770", "#e07a1f", "#008080")
INK, EDGE, LINE = "#20272d", "#8a939b", "#d9dde1"  # words, axes, grid
# each colour of a plot on a light page, and what stands for it on a dark one; a page's words are in the page's own ink
SCHEMES = {
    "#0b6e99": "#4fb0dc",
    "#d1495b": "#f07f8d",
    "#2e7d32": "#6cbf70",
    "#b07d00": "#dba63a",
    "#6a4c93": "#b095d8",
    "#5c6770": "#9aa5ae",
    "#e07a1f": "#f09a4e",
    "#008080": "#3db8b8",
    EDGE: "#7d8890",
    LINE: "#3a434b",
}
STYLE: dict[Any, Any] = {
    "font.sans-serif": ["DejaVu Sans", "Arial"],
    "font.size": 10,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",  # words stay words: they can be searched and read aloud
    "svg.hashsalt": "facelt",
    "xtick.color": INK,
    "ytick.color": INK,
}


def legend_below(figure: Any) -> None:
    """Name the lines of the first axes below the plot, where the names cover none of them.

    figure: matplotlib's, laid out by `constrained`; it grows by what the names need.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not labels:
        return
    columns = max(1, min(len(labels), int(figure.get_figwidth() / (0.085 * max(map(len, labels)) + 0.6))))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
