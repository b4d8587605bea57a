"""A plot as a page holds it: SVG whose words can be searched, in the colours of the page, and files to take away."""

import base64
import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from recordio_tools.plot_style import INK, SCHEMES, STYLE

OPENING = re.compile(r"<svg\b[^>]*>")
NAMED = re.compile(r'(\bid="|href="#|url\(#)')


@dataclass(frozen=True, kw_only=True)
class Plot:
    """key: name of its files and of its place on the page. title: what it is, for those who cannot see it.

    alone: a whole SVG file, dark on white. inline: the same as an element that follows the page's colours.
    whole: it takes the page's width. csv: the numbers shown; empty where they are not offered.
    """

    key: str
    title: str
    caption: str
    alone: str
    inline: str
    csv: str = ""
    whole: bool = False

    @classmethod
    def of(cls, figure: Figure, key: str, title: str, caption: str, **more: Any) -> "Plot":
        """A figure drawn under `plot_style.STYLE`. more: `csv`, `whole`."""
        svg = NAMED.sub(rf"\g<1>{key}-", to_svg(figure))  # several plots share a page, and their ids must differ
        name = f' role="img" aria-labelledby="{key}-title"><title id="{key}-title">{html.escape(title)}</title>'
        svg = OPENING.sub(lambda found: found[0].removesuffix(">") + name, svg, count=1)
        inline = svg.replace(INK, "currentColor")
        for number, light in enumerate(SCHEMES):
            inline = inline.replace(light, f"var(--plot-{number})")
        paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
        alone = '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("</title>", f"</title>{paper}", 1)
        return cls(key=key, title=title, caption=caption, alone=alone, inline=inline, **more)

    @property
    def svg_uri(self) -> str:
        """The SVG file as a link's target."""
        return _uri(self.alone, "image/svg+xml")

    @property
    def csv_uri(self) -> str:
        """The CSV file as a link's target."""
        return _uri(self.csv, "text/csv;charset=utf-8")


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element without background, without the XML prologue."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):  # how words are written is decided here, not where they were drawn
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def to_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, the first of them the heading; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _uri(text: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"
