"""What the tail looks like: images per identity, sorted, with the many-, medium- and few-shot identities."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recordio_tools.atomic import output_file
from recordio_tools.dataset import RecordDataset
from recordio_tools.look.inspection import FEW, MANY, shots

BANDS = [("many_shot", "#8fb8de"), ("medium_shot", "#c9dcef"), ("few_shot", "#eef4fa")]
LINES = ["#12355b", "#b5442e", "#2f7d4f", "#7a4f9a"]


def tail(source: RecordDataset) -> dict:
    """The tail as figures: identities by shots, and images per identity from the most to the fewest."""
    counts = np.sort(np.bincount(source.labels))[::-1]
    counts = counts[counts > 0]
    return {
        "path": str(source.rec_path),
        "images": len(source),
        "identities": len(counts),
        **shots(counts),
        "images_per_identity": counts.tolist(),
    }


def draw_tails(tails: Sequence[dict]) -> Figure:
    """The long-tail figure: one line per set; bands and counts for the first."""
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for number, figures in enumerate(tails):
            counts = np.array(figures["images_per_identity"])
            label = f"{Path(figures['path']).parent.name}: {figures['images']:,} images, {len(counts):,} identities"
            ranks, colour = np.arange(len(counts) + 1), LINES[number % len(LINES)]
            axes.step(ranks, np.append(counts, counts[-1]), where="post", lw=2, label=label, color=colour)
        _draw_bands(axes, tails[0])
        axes.set_yscale("log")
        axes.set_xlim(0, max(figures["identities"] for figures in tails))
        axes.set_ylim(bottom=0.8)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("identities, sorted by number of images")
        axes.set_ylabel("images per identity")
        axes.legend(loc="upper right", facecolor="white", edgecolor="none", framealpha=1)
    return figure


def _draw_bands(axes: Axes, figures: dict) -> None:
    """The shots of one set as coloured bands, named with their counts in the legend."""
    names = {
        "many_shot": f"many-shot, ≥ {MANY} images",
        "medium_shot": "medium-shot",
        "few_shot": f"few-shot, ≤ {FEW} images",
    }
    start = 0
    for band, colour in BANDS:
        stop = start + figures[band]
        axes.axvspan(start, stop, color=colour, lw=0, zorder=0, label=f"{names[band]}: {figures[band]:,} identities")
        start = stop


def write_tails(tails: Sequence[dict], out: Path, *, force: bool = False) -> None:
    """Write the figure as PNG."""
    with output_file(out, force=force) as partial:
        draw_tails(tails).savefig(partial, format="png")
