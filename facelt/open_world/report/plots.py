"""Plots of a report: what does not fit a table.

C: classes with test images.
"""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from facelt.open_world.figures import Weights
from facelt.open_world.report.schema import Gain, ReadingResult, Report
from facelt.open_world.report.trial import Answers, Trial
from facelt.open_world.shots import SHOTS
from recordio_tools.page.plot import Plot
from recordio_tools.plot_style import COLOURS, INK, LINE, STYLE

POINTS = 400  # of a curve at most
STYLED = matplotlib.rc_context(STYLE)
# of each plot: what it is, and what it shows
CAPTIONS = {
    "training-count": ("Accuracy by training count", "Closed set; band: 95 % interval."),
    "roc": ("Strangers told from known images", "A line for each signal; grey: what chance would do."),
    "f-measure": ("F-measure against the threshold", "Dotted: the thresholds of the table."),
}


def draw(report: Report, trial: Trial, gains: dict[str, NDArray[np.float64]]) -> dict[str, Figure]:
    """Every plot by name; none of strangers where there are none. gains: F1 gain of each class (C), by reading."""
    figures = {"training-count": training_count(report.readings)}
    if len(trial.identities_M):
        figures["roc"] = strangers_roc(trial)
        figures["f-measure"] = f_measure(trial)
    if report.comparison is not None:
        for gain in report.comparison.gains:
            figures[f"gain-{gain.name}"] = f1_gain(gain, gains[gain.name], trial)
    return figures


def on_page(figures: dict[str, Figure]) -> list[Plot]:
    """Plots as the page holds them."""

    def plot(key: str, figure: Figure) -> Plot:
        by = key.removeprefix("gain-")
        gain = (f"Gain in F1 by class, read by {by}", "A bar a class; lines: means of the buckets.")
        title, caption = CAPTIONS.get(key, gain)
        return Plot.of(figure, key, title, caption, whole=key not in CAPTIONS)

    return [plot(key, figure) for key, figure in figures.items()]


@STYLED
def training_count(readings: list[ReadingResult]) -> Figure:
    """Closed-set accuracy against the training images of a class, in bins that double, with 95 % intervals."""
    figure, axes = _axes()
    for reading, colour in zip(readings, _colours(), strict=False):
        x = [(one.low * one.high) ** 0.5 for one in reading.by_count]
        parts = ([getattr(one.accuracy, part) for one in reading.by_count] for part in ("value", "low", "high"))
        value, low, high = (np.array(part, float) for part in parts)
        axes.plot(x, value, color=colour, marker="o", markersize=4, linewidth=1.8, label=reading.name)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="training images of a class", ylabel="accuracy, %", ylim=(0, 1.02))
    axes.set_title("Accuracy by training count (band: 95 % interval)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(_few_minor(axes)))
    _percent(axes.yaxis)
    axes.legend(loc="best")
    return figure


@STYLED
def strangers_roc(trial: Trial) -> Figure:
    """Known images accepted against strangers accepted, for every signal."""
    figure, axes = _axes()
    ones = Weights(np.ones(len(trial.classes_C)), np.ones(len(trial.strangers_S)))
    for name, colour in zip(trial.signals, _colours(), strict=False):
        known, strangers = (np.append(0, np.cumsum(part[::-1])) for part in trial.separation(name).counts(ones))
        at = _thinned(len(known))
        axes.plot(strangers[at] / strangers[-1], known[at] / known[-1], color=colour, linewidth=1.6, label=name)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, zorder=0)
    axes.set(xlabel="strangers accepted, %", ylabel="known images accepted, %", xlim=(0, 1), ylim=(0, 1.01))
    axes.set_title("Strangers told from known images")
    _percent(axes.xaxis)
    _percent(axes.yaxis)
    axes.legend(loc="lower right", fontsize=8)
    return figure


@STYLED
def f_measure(trial: Trial) -> Figure:
    """F-measure against the threshold of the highest probability, by reading; dotted: the report's thresholds."""
    figure, axes = _axes()
    for (name, answers), colour in zip(trial.answers.items(), _colours(), strict=False):
        thresholds, value = f_curve(answers, trial.labels_N)
        axes.plot(thresholds, value, color=colour, linewidth=1.8, label=name)
    for threshold in trial.thresholds:
        axes.axvline(threshold, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="threshold of the highest probability", ylabel="F-measure, %", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("F-measure against the threshold")
    _percent(axes.yaxis)
    axes.legend(loc="best")
    return figure


def f_curve(answers: Answers, labels_N: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds from 0 to 1, and F there: 2·TP / (TP + N + strangers accepted), rejected known images being errors."""
    right_N = answers.classes_N == labels_N
    thresholds = np.linspace(0, 1, POINTS + 1)
    right, opened = np.sort(answers.probabilities_N[right_N]), np.sort(answers.open_probabilities_M)
    hits = len(right) - np.searchsorted(right, thresholds)
    accepted = len(opened) - np.searchsorted(opened, thresholds)
    return thresholds, 2 * hits / (hits + len(labels_N) + accepted)


@STYLED
def f1_gain(gain: Gain, gain_C: NDArray[np.float64], trial: Trial) -> Figure:
    """Gain in F1 of each class, from the most training images to the fewest; a line at the mean of each bucket."""
    figure, axes = _axes(10.0, 3.6)
    order = np.argsort(-trial.training_C, kind="stable")
    x = np.arange(len(order))
    for shot, colour in zip(SHOTS, COLOURS, strict=False):
        at = np.flatnonzero(trial.members[shot][order])
        mean = getattr(gain, shot).value
        if mean is None:
            continue
        axes.bar(x[at], gain_C[order][at], 1.0, color=colour, alpha=0.55, linewidth=0)
        axes.hlines(mean, at[0] - 0.5, at[-1] + 0.5, color=colour, linewidth=2.2, label=f"{shot}: {100 * mean:+.1f}")
    if gain.strangers is not None:
        axes.bar(1.02 * len(order) + 1, gain.strangers, max(1.0, 0.02 * len(order)), color=COLOURS[3])
        axes.plot([], [], color=COLOURS[3], linewidth=2.2, label=f"strangers: {100 * gain.strangers:+.1f}")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(x=0.01)
    axes.set(xlabel="classes, from the most training images to the fewest", ylabel="gain in F1, points")
    axes.set_title(f"Gain in F1 by class, read by {gain.name} (line: mean of the bucket)")
    axes.grid(axis="x", visible=False)
    _percent(axes.yaxis)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4)
    return figure


def _axes(width: float = 6.0, height: float = 3.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _percent(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def _few_minor(axes: Axes):
    """Labels of minor ticks at 2 and 5 of a decade, where less than two decades are shown."""

    def label(value: float, _: int) -> str:
        low, high = axes.get_xlim()
        leading = value / 10 ** np.floor(np.log10(value))
        return f"{value:,g}" if high / low < 100 and round(leading) in (2, 5) else ""

    return label


def _thinned(size: int) -> NDArray[np.int64]:
    """Places of at most POINTS points of a curve, its ends among them."""
    return np.unique(np.linspace(0, size - 1, POINTS).round().astype(np.int64))


def _colours() -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(2 * len(COLOURS))]
