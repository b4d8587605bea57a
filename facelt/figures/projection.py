"""Features of some people on a plane by t-SNE (figure 3 of the paper), and how compact each person is.

N: images, D: embedding size, K: classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples

from facelt.errors import UserError
from facelt.features.recognisers import from_checkpoint
from facelt.figures.plotting import SHOT_COLOURS, STYLED
from facelt.head.meta_embedding import EMBEDDINGS
from facelt.images.dali import Dataset
from facelt.images.one_pass import each_batch
from facelt.open_world.shots import Bounds
from facelt.run_folder import checkpoint

PANELS = ("plain", *EMBEDDINGS)
TITLES = {"plain": "plain model", "direct": "direct feature", "meta": "dynamic meta-embedding"}
SHADES = {"many": "Blues", "medium": "YlOrBr", "few": "Reds"}
LEAST = 5  # images that t-SNE makes sense of

Rows = NDArray[np.float32]


class People(NamedTuple):
    """images_N: numbers of the images that are shown. labels_N: their classes. shots: of each class that is shown."""

    images_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    shots: dict[int, str]


@dataclass(frozen=True)
class Choice:
    """Whom to show. classes: in all, an equal share of many, medium and few, and more where another has not so many.
    images: of one class at most."""

    classes: int = 12
    images: int = 40
    seed: int = 0

    def of(self, labels: NDArray[np.int64], counts_K: NDArray[np.int64], bounds: Bounds) -> People:
        """Draw people that the run was trained on and that have two images at least.

        labels: of the images to choose from. counts_K: training images of each class.
        Raises UserError where fewer than two people, or too few images, could be shown.
        """
        rng = np.random.default_rng(self.seed)
        shown_K = (np.bincount(labels, minlength=len(counts_K)) >= 2) & (counts_K > 0)
        in_bucket = {
            shot: rng.permutation(np.flatnonzero(members_K & shown_K)).tolist()
            for shot, members_K in bounds.members(counts_K).items()
        }
        shots: dict[int, str] = {}
        for shot, taken in self._shares({shot: len(drawn) for shot, drawn in in_bucket.items()}).items():
            shots |= dict.fromkeys(sorted(in_bucket[shot][:taken]), shot)
        picked = [np.sort(rng.permutation(np.flatnonzero(labels == k))[: self.images]) for k in shots]
        images_N = np.concatenate([np.empty(0, np.int64), *picked])
        if len(shots) < 2 or len(images_N) < LEAST:
            raise UserError(
                f"{len(shots)} people with {len(images_N)} images to show, expected two people and {LEAST} images at "
                "least; give a set with more, or a larger --classes and --images"
            )
        return People(images_N, labels[images_N], shots)

    def _shares(self, available: dict[str, int]) -> dict[str, int]:
        """How many people of each bucket, one after another; what is over goes to few, then to medium."""
        shares = dict.fromkeys(available, 0)
        for _ in range(min(self.classes, sum(available.values()))):
            open_to = [shot for shot in reversed(available) if shares[shot] < available[shot]]
            shares[min(open_to, key=shares.__getitem__)] += 1
        return shares


def features(path: str, panels: list[str], images: Dataset, batch: int, device: torch.device) -> dict[str, Rows]:
    """Features of the images for each panel, N x D: "plain" is the direct feature of the run's stage plain.

    Raises UserError where the run has no such feature, or an image does not decode.
    """
    wanted = tuple(panel for panel in panels if panel != "plain")
    found: dict[str, Rows] = {}
    if "plain" in panels:
        folder = checkpoint.latest(Path(path), "plain")
        if folder is None:
            raise UserError(f"--panels plain: {path} has no stage plain beside it; give a whole run, or leave it out")
        (found["plain"],) = _pass(str(folder), ("direct",), images, batch, device)
    if wanted:
        found |= dict(zip(wanted, _pass(path, wanted, images, batch, device), strict=True))
    return {panel: found[panel] for panel in panels}


def _pass(path: str, names: tuple[str, ...], images: Dataset, batch: int, device: torch.device) -> list[Rows]:
    recogniser = from_checkpoint(checkpoint.find(path), names, device)
    parts: list[list[Rows]] = [[] for _ in names]
    for found in each_batch(
        recogniser.embed, images, recogniser.decoding(batch, device), f"{', '.join(names)} features"
    ):
        for part, rows_BD in zip(parts, found.output.features, strict=True):
            part.append(rows_BD.float().cpu().numpy()[found.valid_G])
    return [np.concatenate(part) for part in parts]


def unit(rows_ND: Rows) -> Rows:
    """Rows of length one: what a cosine sees."""
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True).clip(1e-12)


def project(rows_ND: Rows, seed: int = 0) -> NDArray[np.floating]:
    """t-SNE of the directions of features, N x 2; the same seed, the same picture on one machine."""
    perplexity = min(30.0, (len(rows_ND) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit(rows_ND))


def compactness(rows_ND: Rows, people: People) -> dict[str, float | None]:
    """The mean silhouette of the images of all, many, medium and few, by cosine distance; None where there are none.

    (b - a) / max(a, b): a is an image's mean distance to the other images of its person, b the smallest mean distance
    to those of another person. 1: far from all others; 0: between two. Of the features, not of their picture.
    """
    values_N = np.asarray(silhouette_samples(unit(rows_ND), people.labels_N, metric="cosine"))
    shots_N = np.array([people.shots[label] for label in people.labels_N.tolist()])
    members = {"all": shots_N != "", **{shot: shots_N == shot for shot in SHOT_COLOURS}}
    return {name: float(values_N[of].mean()) if of.any() else None for name, of in members.items()}


@STYLED
def draw(maps: dict[str, NDArray[np.floating]], compact: dict[str, dict[str, float | None]], people: People) -> Figure:
    """A panel each: a dot an image, a hue a bucket, a shade a person."""
    figure = Figure(figsize=(5.2 * len(maps), 5.2), layout="constrained")
    for axes, (panel, map_N2) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        _panel(axes, map_N2, people)
        said = ", ".join(f"{shot} {value:+.2f}" for shot, value in compact[panel].items() if value is not None)
        axes.set_title(TITLES.get(panel, f"{panel} embedding"))
        axes.set_xlabel(f"silhouette: {said}", fontsize=9)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _panel(axes: Axes, map_N2: NDArray[np.floating], people: People) -> None:
    named: set[str] = set()
    for label, shot in people.shots.items():
        same = [k for k, other in people.shots.items() if other == shot]
        shade = matplotlib.colormaps[SHADES[shot]](np.linspace(0.45, 0.95, len(same))[same.index(label)])
        x, y = map_N2[people.labels_N == label].T
        title = None if shot in named else f"{shot}: {len(same)} people"
        axes.scatter(x, y, s=16, color=shade, label=title, linewidths=0)
        named.add(shot)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(True)
