"""The figures of closed and open set, made of what was said of every image.

N: known test images, M: open images, K: classes, C: those with test images, S: labels among the open images.
"""

import numpy as np
from numpy.typing import NDArray

from facelt.open_world.figures import (
    Auroc,
    ClassAccuracy,
    DetectionError,
    Figure,
    FMeasure,
    ImageAccuracy,
    Weights,
    bootstrap,
    per_group,
)
from facelt.open_world.report.comparing import OtherReport
from facelt.open_world.report.per_class import PerClass
from facelt.open_world.report.schema import (
    Buckets,
    Comparison,
    CountBin,
    Detection,
    Gain,
    Measured,
    OpenSet,
    ReadingResult,
    Report,
    Source,
    Top1,
)
from facelt.open_world.report.trial import Answers, Trial
from facelt.open_world.shots import SHOTS, doubling_bins


def make_report(trial: Trial, source: Source, other: OtherReport | None = None) -> Report:
    """All figures with their intervals. other: a report of the same test to compare with."""
    ours = PerClass.of(trial)
    figures: dict[str, Figure] = {}
    for name, answers in trial.answers.items():
        figures |= _reading_figures(name, answers, trial)
    for name in trial.signals:
        separation = trial.separation(name)
        figures |= {f"{name} auroc": Auroc(separation), f"{name} error": DetectionError(separation)}
    gains = {} if other is None else other.gains(ours)
    for name, gain_C in gains.items():
        figures |= _class_means(f"{name} gain", gain_C, np.ones(len(gain_C)), trial)
    C, S = len(trial.classes_C), len(trial.strangers_S)
    ones = Weights(np.ones(C), np.ones(S))
    ends = bootstrap(figures, C, S, trial.draws, trial.seed)
    measured: dict[str, Measured] = {}
    for name, figure in figures.items():
        low, high = ends[name] or (None, None)
        measured[name] = Measured(value=figure(ones), low=low, high=high)
    return Report(
        source=source,
        classes=len(trial.counts_K),
        test_images=len(trial.labels_N),
        test_classes=C,
        open_images=len(trial.identities_M),
        open_identities=S,
        buckets=Buckets(
            bounds="inclusive" if trial.bounds.inclusive else "strict",
            many_from=trial.bounds.many,
            few_to=trial.bounds.few,
            **{shot: int(trial.members[shot].sum()) for shot in SHOTS},
        ),
        draws=trial.draws,
        seed=trial.seed,
        readings=[_reading(name, trial, measured) for name in trial.answers],
        detection=[
            Detection(signal=name, auroc=measured[f"{name} auroc"], error=measured[f"{name} error"])
            for name in trial.signals
        ],
        comparison=None if other is None else _comparison(other, ours, list(gains), trial, measured),
    )


def _class_means(prefix: str, hits_C: NDArray, trials_C: NDArray, trial: Trial) -> dict[str, Figure]:
    """The means over classes: of all, and of each bucket."""
    every = {"by_class": np.ones(len(trials_C), bool), **trial.members}
    return {f"{prefix} {shot}": ClassAccuracy(hits_C, trials_C, members_C) for shot, members_C in every.items()}


def _reading_figures(name: str, answers: Answers, trial: Trial) -> dict[str, Figure]:
    """Of one reading: top-1 of the closed set, by training count too, and at every threshold top-1 and F-measures."""
    C, S = len(trial.classes_C), len(trial.strangers_S)
    class_N, trials_C = trial.class_N, trial.tests_C.astype(float)
    right_N = answers.classes_N == trial.labels_N

    def top1(prefix: str, hits_C: NDArray) -> dict[str, Figure]:
        return {f"{prefix} all": ImageAccuracy(hits_C, trials_C), **_class_means(prefix, hits_C, trials_C, trial)}

    right_C = per_group(right_N, class_N, C)
    figures = top1(f"{name} closed", right_C)
    for low, members_C in doubling_bins(trial.training_C).items():
        figures[f"{name} from {low}"] = ClassAccuracy(right_C, trials_C, members_C)
    for threshold in trial.thresholds:
        accepted_N = answers.probabilities_N >= threshold
        accepted_S = per_group(answers.open_probabilities_M >= threshold, trial.stranger_M, S)
        hits_C = per_group(right_N & accepted_N, class_N, C)
        prefix = f"{name} {threshold}"
        figures |= top1(prefix, hits_C)
        figures[f"{prefix} f"] = FMeasure(hits_C, trials_C - hits_C, accepted_S)
        figures[f"{prefix} earlier"] = FMeasure(hits_C, per_group(~right_N & accepted_N, class_N, C), accepted_S)
    return figures


def _comparison(
    other: OtherReport, ours: PerClass, names: list[str], trial: Trial, measured: dict[str, Measured]
) -> Comparison:
    def gain(name: str) -> Gain:
        mine, theirs = ours.results[name].strangers_f1, other.per_class.results[name].strangers_f1
        means = {shot: measured[f"{name} gain {shot}"] for shot in ("by_class", *SHOTS)}
        return Gain(name=name, strangers=None if mine is None or theirs is None else mine - theirs, **means)

    return Comparison(
        report=other.folder,
        threshold=trial.thresholds[0],
        other_threshold=other.threshold,
        gains=[gain(name) for name in names],
    )


def _reading(name: str, trial: Trial, measured: dict[str, Measured]) -> ReadingResult:
    answers = trial.answers[name]

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

    def bin_from(low: int, members_C: NDArray[np.bool_]) -> CountBin:
        high, classes = int(trial.training_C[members_C].max()), int(members_C.sum())
        return CountBin(low=low, high=high, classes=classes, accuracy=measured[f"{name} from {low}"])

    return ReadingResult(
        name=name,
        closed=top1(f"{name} closed"),
        open=[at(threshold) for threshold in trial.thresholds],
        by_count=[bin_from(low, members_C) for low, members_C in doubling_bins(trial.training_C).items()],
    )
