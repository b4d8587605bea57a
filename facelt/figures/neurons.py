"""What the memory infuses: the neurons of e ⊗ v_memory, and the images that fire them (figures 7, 14 and 15).

B: images, D: embedding size, N: images of a set, T: images that are kept of each neuron.
"""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facelt.figures.opened import OpenedRun, picture
from facelt.figures.plotting import Cell, sheet
from facelt.images.dali import Dataset
from facelt.images.one_pass import each_batch
from recordio_tools.dataset import RecordDataset

SIDE = 112  # pixels of a face in a figure


@dataclass(frozen=True)
class Firing:
    """Of each neuron, over a set. most_TD, least_TD: numbers of the images with its largest and smallest values.

    mean_D, spread_D: mean and standard deviation of its values. A neuron is strong where it tells images apart: one
    that adds the same to every image has a large mean and no spread.
    """

    most_TD: NDArray[np.int64]
    least_TD: NDArray[np.int64]
    mean_D: NDArray[np.float64]
    spread_D: NDArray[np.float64]

    def strongest(self, number: int) -> list[int]:
        """The neurons with the largest spread, largest first."""
        return np.argsort(-self.spread_D, kind="stable")[:number].tolist()


def infused(run: OpenedRun, images_B3SS: Tensor) -> Tensor:
    """e ⊗ v_memory of a batch, B x D."""
    seen = run.see(images_B3SS)
    assert seen.embeddings is not None
    assert seen.concept_BD is not None
    return seen.concept_BD * seen.embeddings.memory_BD


def scan(run: OpenedRun, dataset: Dataset, keep: int, batch: int) -> Firing:
    """One pass over a set. keep: T, at most N.

    Raises UserError for a run without memory, or an image that does not decode.
    """
    run.need_memory("draw neurons")
    keep, D = min(keep, len(dataset)), run.state.config.embedding_size
    ends = [_Largest(keep, D, sign) for sign in (1, -1)]
    sums_2D = torch.zeros(2, D, dtype=torch.float64)
    for part in each_batch(lambda images: infused(run, images), dataset, run.decoding(batch), "neurons"):
        values_BD = part.output.cpu()[torch.from_numpy(part.valid_G)]
        images_B = torch.from_numpy(part.images_G[part.valid_G])
        for end in ends:
            end.add(values_BD, images_B)
        sums_2D += torch.stack([values_BD.double().sum(0), values_BD.double().square().sum(0)])
    mean_D, square_D = sums_2D / len(dataset)
    spread_D = (square_D - mean_D.square()).clamp(min=0).sqrt()
    most, least = (end.images_TD.numpy() for end in ends)
    return Firing(most, least, mean_D.numpy(), spread_D.numpy())


class _Largest:
    """The images with the largest sign · value of each neuron, so far."""

    def __init__(self, keep: int, D: int, sign: int) -> None:
        self.keep, self.sign = keep, sign
        self.values_TD = torch.empty(0, D)
        self.images_TD = torch.empty(0, D, dtype=torch.int64)

    def add(self, values_BD: Tensor, images_B: Tensor) -> None:
        values = torch.cat([self.values_TD, self.sign * values_BD.float()])
        images = torch.cat([self.images_TD, images_B[:, None].expand(-1, values.shape[1])])
        order_TD = values.argsort(dim=0, descending=True, stable=True)[: self.keep]
        self.values_TD, self.images_TD = values.gather(0, order_TD), images.gather(0, order_TD)


def top_neurons(values_D: NDArray[np.floating], number: int) -> list[int]:
    """The neurons that an image has strongest, by |value|: its transferred neurons."""
    return np.argsort(-np.abs(values_D), kind="stable")[:number].tolist()


def face(dataset: Dataset, i: int) -> Image.Image:
    """An image of a set as a figure shows it."""
    return picture(dataset.jpeg(i)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def average(dataset: Dataset, images: NDArray[np.int64]) -> Image.Image:
    """The mean of some images, in the colours of the files."""
    total = np.zeros((SIDE, SIDE, 3))
    for i in images.tolist():
        total += np.asarray(face(dataset, i), np.float64)
    return Image.fromarray((total / len(images)).round().astype(np.uint8))


def draw_for_images(
    dataset: RecordDataset, firing: Firing, given: Dataset, values_ND: NDArray[np.floating], top: int
) -> Figure:
    """Figure 7: beside each given image its strongest neurons, a row each, and the images of the set that fire them."""
    rows, titles = [], []
    for i, values_D in enumerate(values_ND):
        for place, d in enumerate(top_neurons(values_D, top)):
            own = face(given, i) if place == 0 else None
            images_T = (firing.most_TD if values_D[d] >= 0 else firing.least_TD)[:, d]
            rows.append([Cell(own), *(Cell(face(dataset, int(image))) for image in images_T)])
            titles.append(f"neuron {d}: {values_D[d]:+.3g}")
    return sheet(rows, titles)


def draw_strongest(dataset: RecordDataset, firing: Firing, top: int) -> Figure:
    """Figure 14: the strongest neurons of a set, a row each, and the images that fire them most."""
    chosen = firing.strongest(top)
    rows = [[Cell(face(dataset, int(image))) for image in firing.most_TD[:, d]] for d in chosen]
    return sheet(rows, [_said(firing, d) for d in chosen])


def draw_averages(dataset: RecordDataset, firing: Firing, top: int) -> Figure:
    """Figure 15: the average of the images that fire a neuron least, and of those that fire it most; a neuron a row."""
    chosen = firing.strongest(top)
    T = len(firing.most_TD)
    rows = [[Cell(average(dataset, end[:, d])) for end in (firing.least_TD, firing.most_TD)] for d in chosen]
    rows[0] = [Cell(cell.picture, f"{kind} {T}") for cell, kind in zip(rows[0], ("least", "most"), strict=True)]
    return sheet(rows, [_said(firing, d) for d in chosen])


def _said(firing: Firing, d: int) -> str:
    return f"neuron {d}: {firing.mean_D[d]:.3g} ± {firing.spread_D[d]:.2g}"
