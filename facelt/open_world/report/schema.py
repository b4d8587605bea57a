"""The report of closed and open set as data: `report.json` has the fields of these models."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class CountBin(Part):
    """Classes with test images that have low … high training images, and the mean of their closed-set accuracies."""

    low: int
    high: int
    classes: int
    accuracy: Measured


class ReadingResult(Part):
    """What one reading gave."""

    name: str
    closed: Top1
    open: list[OpenSet]
    by_count: list[CountBin]


class Detection(Part):
    """How well a signal tells known images from strangers."""

    signal: str
    auroc: Measured
    error: Measured


class Source(Part):
    """What was evaluated on what, as given, and what the readings were set to; None for what was not asked for.

    checkpoint, stage, step: of a run; None where features were given. temperature: of the memory's softmax. tau: of the
    readings tau and logit_adjusted.
    """

    checkpoint: str | None
    stage: str | None
    step: int | None
    train: str
    data: str
    open: str | None
    temperature: Number | None = None
    tau: Number | None = None
    openmax_tail: int | None = None
    openmax_alpha: int | None = None
    plda_ridge: Number | None = None
    odin_temperature: Number | None = None
    odin_epsilon: Number | None = None


class Buckets(Part):
    """Bounds in training images, and how many classes with test images each bucket has."""

    bounds: Literal["inclusive", "strict"]
    many_from: int
    few_to: int
    many: int
    medium: int
    few: int


class Gain(Part):
    """The mean gain in F1 of one reading over that of the other report: of classes, and of rejecting strangers."""

    name: str
    by_class: Measured
    many: Measured
    medium: Measured
    few: Measured
    strangers: Number | None


class Comparison(Part):
    """report: the folder compared with. threshold, other_threshold: at which the F1 of this and of that were taken."""

    report: str
    threshold: Number
    other_threshold: Number
    gains: list[Gain]


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
    comparison: Comparison | None = None
