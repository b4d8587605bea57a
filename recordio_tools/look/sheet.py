"""The contact sheet of a set: a row of faces for each of some identities."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recordio_tools.atomic import output_file
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.pictures import DECODE_ERRORS
from recordio_tools.format.recordio import RecordError

MARGIN = 4
CAPTION = 16


def spread(items: np.ndarray, number: int) -> np.ndarray:
    """At most `number` of the items, evenly spread, first and last included."""
    return items[np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int))]


def contact_sheet(source: RecordDataset, rows: int = 8, columns: int = 10, cell: int = 112) -> Image.Image:
    """A line for each of `rows` identities (spread over the labels), with the first `columns` images of each.

    Images are cells of `cell` pixels, grey where one cannot be decoded. Above a line stand the identity's name or label
    and its number of images.
    """
    identities = spread(np.unique(source.labels), rows)
    step, pitch = cell + MARGIN, cell + MARGIN + CAPTION
    sheet = Image.new("RGB", (columns * step + MARGIN, len(identities) * pitch + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, identity in enumerate(identities.tolist()):
        images = np.flatnonzero(source.labels == identity)
        name = f"identity {identity}" if source.names is None else source.names[identity]
        draw.text(
            (MARGIN, row * pitch + 1),
            f"{name}  ({len(images)} image{'' if len(images) == 1 else 's'})",
            fill="black",
            font=font,
        )
        for column, image in enumerate(images[:columns].tolist()):
            sheet.paste(_thumbnail(source, image, cell), (MARGIN + column * step, row * pitch + CAPTION))
    return sheet


def picture_sheet(pictures: list[Image.Image], columns: int = 10, cell: int = 112) -> Image.Image:
    """Pictures row by row, in cells of `cell` pixels."""
    step = cell + MARGIN
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * step + MARGIN, rows * step + MARGIN), "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        scaled = picture.resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(scaled, (MARGIN + column * step, MARGIN + row * step))
    return sheet


def _thumbnail(source: RecordDataset, i: int, cell: int) -> Image.Image:
    try:
        with Image.open(BytesIO(source.jpeg(i).tobytes())) as image:
            return image.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS)
    except DECODE_ERRORS:
        return Image.new("RGB", (cell, cell), "grey")


def write_sheet(
    source: RecordDataset, out: Path, *, rows: int = 8, columns: int = 10, cell: int = 112, force: bool = False
) -> None:
    """Write the contact sheet as PNG. Raises RecordError when there is nothing to show."""
    if min(rows, columns, cell) < 1:
        raise RecordError(f"{rows} rows, {columns} columns, {cell} pixels given, expected 1 or more", kind="count")
    with output_file(out, force=force) as partial:
        contact_sheet(source, rows, columns, cell).save(partial, "PNG")
