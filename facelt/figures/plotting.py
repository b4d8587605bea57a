"""How figures look and how they are written: one style, sheets of faces, files whole or not at all."""

import base64
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from facelt.errors import UserError
from recordio_tools.atomic import check_writable, output_file
from recordio_tools.plot_style import STYLE

SHOT_COLOURS = {"many": "#0b6e99", "medium": "#b07d00", "few": "#d1495b"}
STYLED = matplotlib.rc_context(STYLE)
SUFFIXES = (".png", ".svg", ".pdf")
INCH = 1.15  # of a face in a sheet


def check_output(path: Path, force: bool) -> None:
    """Refuse, before any work, a figure that could not be written, or whose kind its name does not say."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output {path}: expected a name that ends with {', '.join(SUFFIXES)}")
    check_writable(path, force=force, folder=False)


def write(figure: Figure, path: Path, force: bool) -> None:
    """The figure as a file whose kind its name says, 160 dots an inch."""
    kind = path.suffix.lower().removeprefix(".")
    with output_file(path, force=force) as partial:
        figure.savefig(partial, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)


def plain(name: str) -> str:
    """A name as matplotlib shows it: no formula between dollar signs, and not left out for beginning with _."""
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


def percent(axes: Axes) -> None:
    """Shares on the y axis as percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


class Cell(NamedTuple):
    """A picture of a sheet, and what stands above it."""

    picture: Image.Image | None
    caption: str = ""


@STYLED
def sheet(rows: list[list[Cell]], titles: list[str]) -> Figure:
    """Rows of pictures, with a title at the left of each row. A cell without a picture stays white."""
    columns = max(len(row) for row in rows)
    size = (INCH * columns + 1.9, (INCH + 0.28) * len(rows) + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, title, line in zip(rows, titles, grid, strict=True):
        for at, axes in enumerate(line):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
            cell = row[at] if at < len(row) else Cell(None)
            if cell.picture is not None:
                axes.imshow(cell.picture)
            axes.set_title(plain(cell.caption), fontsize=7.5, fontweight="normal", loc="center", pad=2)
        line[0].set_ylabel(plain(title), rotation=0, ha="right", va="center", fontsize=8.5)
    return figure


def data_uri(image: Image.Image, side: int) -> str:
    """A picture, at most `side` pixels high and wide, as text that a page can hold."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = BytesIO()
    small.save(data, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
