"""The report of closed and open set: `report.json`, whose fields are these models, and the table for people.

N: known test images, M: open images, K: classes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facelt.open_world.figures import (
    DRAWS,
    Auroc,
    ClassAccuracy,
    DetectionError,
    Figure,
    FMeasure,
    ImageAccuracy,
    Separation,
    Weights,
    bootstrap,
    per_group,
)
from facelt.open_world.shots import SHOTS, Bounds

FORMAT = 1

Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(Part):
    """A figure as a share, 0 … 1, and its 95 % interval; None: n/a."""

    value: Number | None
    low: Number | None
    high: Number | None


class Top1(Part):
    """Top-1: all, over images; by_class, the mean over classes; and the mean over the classes of each bucket."""

    all: Measured
    by_class: Measured
    many: Measured
    medium: Measured
    few: Measured


class OpenSet(Part):
    """At one threshold, images whose highest softmax probability is below it are called unknown.

    top1: of known images; a rejected one is wrong. f_measure: rejected known images are errors; f_measure_earlier: they
    are not counted. rejected_known, accepted_strangers: shares of images.
    """

    threshold: Number
    top1: Top1
    f_measure: Measured
    f_measure_earlier: Measured
    rejected_known: Number
    accepted_strangers: Number | None


class ReadingResult(Part):
    """What one reading of the run gave."""

    name: str
    closed: Top1
    open: list[OpenSet]


class Detection(Part):
    """How well a signal tells known images from strangers."""

    signal: str
    auroc: Measured
    error: Measured


class Source(Part):
    """What was evaluated on what, as given. temperature: of the memory's softmax."""

    checkpoint: str
    stage: str
    step: int
    train: str
    data: str
    open: str | None
    temperature: Number


class Buckets(Part):
    """Bounds in training images, and how many classes with test images each bucket has."""

    bounds: Literal["inclusive", "strict"]
    many_from: int
    few_to: int
    many: int
    medium: int
    few: int


class Report(Part):
    """report.json. classes: K; test_classes: those with test images; open_identities: labels of the open images."""

    format: Literal[1] = FORMAT
    source: Source
    classes: int
    test_images: int
    test_classes: int
    open_images: int
    open_identities: int
    buckets: Buckets
    draws: int
    seed: int
    readings: list[ReadingResult]
    detection: list[Detection]


@dataclass(frozen=True)
class Answers:
    """What a reading says: the best class of each known image, and the softmax probability of it for all."""

    classes_N: NDArray[np.int64]
    probabilities_N: NDArray[np.float64]
    open_probabilities_M: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Everything that the figures are made of.

    labels_N: of the known images. identities_M: of the open images, by whatever labels they have; strangers whatever
    the label. counts_K: training images of each class. answers: by reading. signals: by name, of the known images and
    of the open ones, high for known.
    """

    labels_N: NDArray[np.int64]
    identities_M: NDArray[np.int64]
    counts_K: NDArray[np.int64]
    answers: dict[str, Answers]
    signals: dict[str, tuple[NDArray, NDArray]]
    bounds: Bounds
    thresholds: list[float]
    draws: int = DRAWS
    seed: int = 0


def make_report(trial: Trial, source: Source) -> Report:
    """All figures with their intervals."""
    classes, class_N = np.unique(trial.labels_N, return_inverse=True)
    strangers, stranger_M = np.unique(trial.identities_M, return_inverse=True)
    members = {shot: of_K[classes] for shot, of_K in trial.bounds.members(trial.counts_K).items()}
    figures: dict[str, Figure] = {}
    for name, answers in trial.answers.items():
        figures |= _reading_figures(name, answers, trial, class_N, stranger_M, members)
    for name, (known_N, open_M) in trial.signals.items():
        separation = Separation.of(known_N, class_N, open_M, stranger_M)
        figures |= {f"{name} auroc": Auroc(separation), f"{name} error": DetectionError(separation)}
    ones = Weights(np.ones(len(classes)), np.ones(len(strangers)))
    ends = bootstrap(figures, len(classes), len(strangers), trial.draws, trial.seed)
    measured: dict[str, Measured] = {}
    for name, figure in figures.items():
        low, high = ends[name] or (None, None)
        measured[name] = Measured(value=figure(ones), low=low, high=high)
    return Report(
        source=source,
        classes=len(trial.counts_K),
        test_images=len(trial.labels_N),
        test_classes=len(classes),
        open_images=len(trial.identities_M),
        open_identities=len(strangers),
        buckets=Buckets(
            bounds="inclusive" if trial.bounds.inclusive else "strict",
            many_from=trial.bounds.many,
            few_to=trial.bounds.few,
            **{shot: int(members[shot].sum()) for shot in SHOTS},
        ),
        draws=trial.draws,
        seed=trial.seed,
        readings=[_reading(name, answers, trial.thresholds, measured) for name, answers in trial.answers.items()],
        detection=[
            Detection(signal=name, auroc=measured[f"{name} auroc"], error=measured[f"{name} error"])
            for name in trial.signals
        ],
    )


def _reading_figures(
    name: str,
    answers: Answers,
    trial: Trial,
    class_N: NDArray[np.int64],
    stranger_M: NDArray[np.int64],
    members: dict[str, NDArray[np.bool_]],
) -> dict[str, Figure]:
    """Of one reading: top-1 of the closed set, and at every threshold top-1 and both F-measures."""
    C, S = len(members["many"]), int(stranger_M.max(initial=-1)) + 1
    right_N = answers.classes_N == trial.labels_N
    trials_C = per_group(np.ones(len(class_N)), class_N, C)

    def top1(prefix: str, hits_C: NDArray) -> dict[str, Figure]:
        figures: dict[str, Figure] = {f"{prefix} all": ImageAccuracy(hits_C, trials_C)}
        for shot, members_C in {"by_class": np.ones(C, bool), **members}.items():
            figures[f"{prefix} {shot}"] = ClassAccuracy(hits_C, trials_C, members_C)
        return figures

    figures = top1(f"{name} closed", per_group(right_N, class_N, C))
    for threshold in trial.thresholds:
        accepted_N = answers.probabilities_N >= threshold
        accepted_S = per_group(answers.open_probabilities_M >= threshold, stranger_M, S)
        hits_C = per_group(right_N & accepted_N, class_N, C)
        prefix = f"{name} {threshold}"
        figures |= top1(prefix, hits_C)
        figures[f"{prefix} f"] = FMeasure(hits_C, trials_C - hits_C, accepted_S)
        figures[f"{prefix} earlier"] = FMeasure(hits_C, per_group(~right_N & accepted_N, class_N, C), accepted_S)
    return figures


def _reading(name: str, answers: Answers, thresholds: list[float], measured: dict[str, Measured]) -> ReadingResult:
    def top1(prefix: str) -> Top1:
        return Top1(**{field: measured[f"{prefix} {field}"] for field in Top1.model_fields})

    def at(threshold: float) -> OpenSet:
        open_M, prefix = answers.open_probabilities_M, f"{name} {threshold}"
        return OpenSet(
            threshold=threshold,
            top1=top1(prefix),
            f_measure=measured[f"{prefix} f"],
            f_measure_earlier=measured[f"{prefix} earlier"],
            rejected_known=float((answers.probabilities_N < threshold).mean()),
            accepted_strangers=float((open_M >= threshold).mean()) if len(open_M) else None,
        )

    return ReadingResult(name=name, closed=top1(f"{name} closed"), open=[at(threshold) for threshold in thresholds])


def table(report: Report, bounds: Bounds) -> str:
    """The report for people, in Markdown; shares in %, with intervals where there are any."""
    shots = [f"{title} ({getattr(report.buckets, shot)})" for shot, title in bounds.titles.items()]
    head = ["read by", "set", "all images", "mean of classes", *shots, "F-measure", "F, earlier form"]
    rows = []
    for reading in report.readings:
        rows.append([reading.name, "closed", *_top1_cells(reading.closed), "", ""])
        for at in reading.open:
            f_measures = [_cell(at.f_measure), _cell(at.f_measure_earlier)]
            rows.append([reading.name, f"open, {at.threshold:g}", *_top1_cells(at.top1), *f_measures])
    known = f"{report.test_images:,} images of {report.test_classes:,} of {report.classes:,} classes"
    strangers = f"{report.open_images:,} images of {report.open_identities:,} strangers"
    detection = [[one.signal, _cell(one.auroc), _cell(one.error)] for one in report.detection]
    return "\n\n".join(
        [
            f"Top-1 in %, with 95 % intervals over classes: {known}, {strangers}. In brackets: classes.",
            _markdown(head, rows),
            "Strangers told from known images, in %:",
            _markdown(["signal", "AUROC", "detection error at 95 % TPR"], detection),
        ]
    )


def _top1_cells(top1: Top1) -> list[str]:
    return [_cell(getattr(top1, name)) for name in Top1.model_fields]


def _cell(measured: Measured) -> str:
    if measured.value is None:
        return "n/a"
    if measured.low is None or measured.high is None:
        return f"{100 * measured.value:.1f}"
    return f"{100 * measured.value:.1f} [{100 * measured.low:.1f}, {100 * measured.high:.1f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
