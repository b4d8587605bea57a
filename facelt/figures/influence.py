"""How results change with the threshold, the number of open classes, and a knob of training (figure 8 of the paper).

N: known test images, M: open images, K: classes, P: points of a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facelt.figures.answers import Answers
from facelt.figures.plotting import STYLED, percent, plain
from facelt.open_world.figures import ClassAccuracy, Figure, FMeasure, ImageAccuracy, Weights, bootstrap, per_group
from facelt.open_world.shots import SHOTS, Bounds
from recordio_tools.plot_style import COLOURS

Measure = Literal["f_measure", "all", "many", "medium", "few"]
FORMAT = 1
MEASURES: tuple[Measure, ...] = ("f_measure", "all", "many", "medium", "few")
LINES = ("-", "--", ":", "-.")

Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A part of influence.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(Part):
    """A figure at one value of what is varied, and its 95 % interval; None: n/a."""

    at: str
    value: Number | None
    low: Number | None
    high: Number | None


class Curve(Part):
    """measure: f_measure, or top-1 of all images, or its mean over the classes of many, medium, few. of: the run."""

    of: str
    measure: Measure
    points: list[Point]


class Influence(Part):
    """influence.json: what is varied, and every curve."""

    format: Literal[1] = FORMAT
    varied: str
    curves: list[Curve]


@dataclass(frozen=True)
class Tried:
    """A run's answers to known images and to strangers, and what they are. counts_K: training images of a class."""

    known: Answers
    labels_N: NDArray[np.int64]
    opened: Answers
    identities_M: NDArray[np.int64]
    counts_K: NDArray[np.int64]
    bounds: Bounds

    def figures(self, threshold: float, strangers: NDArray[np.int64] | None = None) -> dict[str, Figure]:
        """F-measure and top-1 of the open set. strangers: identities that take part, all by default.

        An image whose probability is below the threshold is called unknown; a known one is then wrong.
        """
        classes_C, class_N = np.unique(self.labels_N, return_inverse=True)
        C = len(classes_C)
        accepted_N = self.known.probabilities_N >= threshold
        hits_C = per_group(accepted_N & (self.known.classes_N == self.labels_N), class_N, C)
        trials_C = per_group(np.ones(len(class_N)), class_N, C)
        everyone, stranger_M = np.unique(self.identities_M, return_inverse=True)
        accepted_S = per_group(self.opened.probabilities_N >= threshold, stranger_M, len(everyone))
        if strangers is not None:
            accepted_S = accepted_S[np.isin(everyone, strangers)]
        members = self.bounds.members(self.counts_K)
        return {
            "f_measure": FMeasure(hits_C, trials_C - hits_C, accepted_S),
            "all": ImageAccuracy(hits_C, trials_C),
            **{shot: ClassAccuracy(hits_C, trials_C, members[shot][classes_C]) for shot in SHOTS},
        }

    def points(
        self, at: str, threshold: float, strangers: NDArray[np.int64], draws: int, seed: int
    ) -> dict[str, Point]:
        """Every measure at one value, called `at`."""
        figures = self.figures(threshold, strangers)
        C, S = len(np.unique(self.labels_N)), len(strangers)
        ends = bootstrap(figures, C, S, draws, seed)
        ones = Weights(np.ones(C), np.ones(S))
        found = {}
        for name, figure in figures.items():
            low, high = ends[name] or (None, None)
            found[name] = Point(at=at, value=figure(ones), low=low, high=high)
        return found


def curves(of: str, points: Sequence[dict[str, Point]]) -> list[Curve]:
    """A curve a measure, from the points at each value; without those that are n/a everywhere."""
    found = [Curve(of=of, measure=name, points=[at[name] for at in points]) for name in MEASURES]
    return [curve for curve in found if any(point.value is not None for point in curve.points)]


def by_threshold(of: str, tried: Tried, thresholds: Sequence[float], draws: int, seed: int) -> list[Curve]:
    """Figure 8b: every measure at each threshold, with all strangers."""
    everyone = np.unique(tried.identities_M)
    return curves(of, [tried.points(f"{t:g}", t, everyone, draws, seed) for t in thresholds])


def by_open_classes(
    of: str, tried: Tried, numbers: Sequence[int], threshold: float, draws: int, seed: int
) -> list[Curve]:
    """Figure 8c: the F-measure with the strangers of some open classes; a larger number keeps those of a smaller one.

    Top-1 of known images does not depend on strangers and is left out.
    """
    order = np.random.default_rng(seed).permutation(np.unique(tried.identities_M))
    points = [tried.points(str(number), threshold, order[:number], draws, seed) for number in numbers]
    return [curve for curve in curves(of, points) if curve.measure == "f_measure"]


@STYLED
def draw(found: Influence) -> Picture:
    """F-measure in a panel of its own, a colour a run; top-1 in another, a colour a measure and a line style a run.

    Bands are 95 % intervals; several runs' top-1 is drawn without.
    """
    panels = [[c for c in found.curves if (c.measure == "f_measure") == wanted] for wanted in (True, False)]
    panels = [panel for panel in panels if panel]
    picture = Picture(figsize=(6.2 * len(panels), 3.8), layout="constrained")
    runs = list(dict.fromkeys(curve.of for curve in found.curves))
    for axes, panel in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        single = panel[0].measure == "f_measure"
        for curve in panel:
            run = runs.index(curve.of)
            colour = COLOURS[run % len(COLOURS)] if single else COLOURS[MEASURES.index(curve.measure) % len(COLOURS)]
            label = curve.of if single else f"{curve.of}: {curve.measure}" if len(runs) > 1 else curve.measure
            shown = [(x, point) for x, point in enumerate(curve.points) if point.value is not None]
            x, values = [x for x, _ in shown], [point.value for _, point in shown]
            style = LINES[0 if single else run % len(LINES)]
            axes.plot(x, values, style, color=colour, marker="o", markersize=4, label=plain(label))
            band = [
                (x, point.low, point.high) for x, point in shown if point.low is not None and point.high is not None
            ]
            if band and (single or len(runs) == 1):  # many on top of each other are none to read
                axes.fill_between(*zip(*band, strict=True), color=colour, alpha=0.12, linewidth=0)
        axes.set_xticks(range(len(panel[0].points)), [plain(point.at) for point in panel[0].points])
        axes.set(xlabel=plain(found.varied), ylim=(0, None), ylabel=f"{'F-measure' if single else 'top-1'}, %")
        percent(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8.5)
    picture.axes[0].set_title("Influence of " + plain(found.varied))
    return picture
