"""Where attention looks: its map over an image, MA(f) of equation 5."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from facelt.figures.opened import OpenedRun, picture
from facelt.figures.plotting import Cell, sheet
from facelt.images.dali import Dataset
from facelt.images.one_pass import each_batch

OPACITY = 0.55


class Maps(NamedTuple):
    """spatial_NHW: MA(f) of each image, which sums to one. share_N: ‖MA(f) ⊗ SA(f)‖ / ‖f‖, what attention adds."""

    spatial_NHW: NDArray[np.float32]
    share_N: NDArray[np.float32]


def maps(run: OpenedRun, images: Dataset, batch: int) -> Maps:
    """The maps of the images of a set.

    Raises UserError for a run without attention, or an image that does not decode.
    """
    run.need_attention("draw attention")
    spatial, shares = [], []
    for part in each_batch(run.see, images, run.decoding(batch), "attention"):
        attended = part.output.attended
        assert attended is not None
        spatial.append(attended.spatial_BHW.cpu().numpy()[part.valid_G])
        shares.append(attended.share_B.cpu().numpy()[part.valid_G])
    return Maps(np.concatenate(spatial), np.concatenate(shares))


def overlay(image: Image.Image, spatial_HW: NDArray[np.floating], side: int = 224) -> Image.Image:
    """A map over its image, side x side: dark where attention gives least, bright where most.

    The map is stretched between its own least and most, and smoothed between its positions.
    """
    low, high = float(spatial_HW.min()), float(spatial_HW.max())
    level_HW = (spatial_HW - low) / (high - low) if high > low else np.zeros_like(spatial_HW)
    smooth = Image.fromarray(level_HW.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    heat = matplotlib.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3]
    below = image.resize((side, side), Image.Resampling.LANCZOS)
    return Image.blend(below, Image.fromarray((255 * heat).astype(np.uint8)), OPACITY)


def draw(images: Dataset, names: Sequence[str], found: Maps, columns: int = 8) -> Figure:
    """Under each image its map, with the share of the whole that its brightest position has."""
    rows: list[list[Cell]] = []
    for start in range(0, len(names), columns):
        some = range(start, min(start + columns, len(names)))
        pictures = [picture(images.jpeg(i)).resize((224, 224), Image.Resampling.LANCZOS) for i in some]
        rows.append([Cell(one, names[i]) for i, one in zip(some, pictures, strict=True)])
        rows.append(
            [
                Cell(overlay(one, found.spatial_NHW[i]), f"most {100 * found.spatial_NHW[i].max():.0f} %")
                for i, one in zip(some, pictures, strict=True)
            ]
        )
    H, W = found.spatial_NHW.shape[1:]
    return sheet(rows, ["image", f"MA(f), {H} × {W}"] * (len(rows) // 2))
