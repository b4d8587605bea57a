"""How plots look in all three packages: colours of lines, and a style for `matplotlib.rc_context`."""

from typing import Any

COLOURS = ("#0b6e99", "#d1495b", "#2e7d32", "#b07d00", "#6a4c93", "#5c6770", "#e07a1f", "#008080")
STYLE: dict[Any, Any] = {
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
