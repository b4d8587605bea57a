"""Accuracy by sensitive attribute, and the largest gap between groups at equal numbers of training images.

C: classes with test images. A class is in a group by its attribute's value, in none where it has no value.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import numpy as np
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facelt.figures.plotting import STYLED, plain
from facelt.open_world.figures import Bools, ClassAccuracy, Figure, Floats, Ints, Weights, bootstrap, per_group, share
from recordio_tools.plot_style import COLOURS

FORMAT = 1

Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A part of fairness.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A figure and its 95 % interval over classes; None where it rests on too little."""

    value: Number | None
    low: Number | None
    high: Number | None


class Group(Part):
    """Classes of one value. accuracy: the mean over its classes. training_images: their median."""

    value: str
    classes: int
    test_images: int
    training_images: Number
    accuracy: Estimate


class Gap(Part):
    """Accuracy of `higher` less that of `lower`: as it is, and among classes with as many training images.

    compared: classes of both that have a counterpart. pairs: of groups, among which this gap is the largest.
    """

    higher: str
    lower: str
    as_it_is: Estimate
    at_equal_counts: Estimate
    compared: int
    pairs: int


class Attribute(Part):
    """One attribute. unknown: classes without a value. gap: None where no two groups have two classes alike."""

    name: str
    unknown: int
    groups: list[Group]
    gap: Gap | None


class Fairness(Part):
    """fairness.json. What was tried on what, and an entry an attribute."""

    format: Literal[1] = FORMAT
    checkpoint: str
    train: str
    data: str
    attributes_file: str
    classes: int
    draws: int
    seed: int
    attributes: list[Attribute]


@dataclass(frozen=True)
class ByClass:
    """hits_C of trials_C test images are right; counts_C training images. names_C: the identities."""

    hits_C: Floats
    trials_C: Floats
    counts_C: Ints
    names_C: list[str]

    @classmethod
    def of(cls, labels_N: Ints, called_N: Ints, counts_K: Ints, names_K: list[str]) -> "ByClass":
        """Of test images: their labels, and the classes that they were called."""
        classes_C, class_N = np.unique(labels_N, return_inverse=True)
        C = len(classes_C)
        hits_C = per_group(called_N == labels_N, class_N, C)
        trials_C = per_group(np.ones(len(class_N)), class_N, C)
        return cls(hits_C, trials_C, counts_K[classes_C], [names_K[k] for k in classes_C.tolist()])


@dataclass(frozen=True)
class EqualCounts:
    """The gap between two groups among classes with as many training images.

    Classes are binned by them: 1, 2 to 3, 4 to 7, 8 to 15 … The gap is the mean over bins of the one group's mean
    accuracy less the other's; a bin weighs as many classes as the smaller of the two groups has in it.
    """

    accuracy_C: Floats
    one_C: Bools
    other_C: Bools
    bin_C: NDArray[np.integer]

    @property
    def shared_C(self) -> Bools:
        """The classes of both groups whose bin holds classes of both."""
        shared = np.intersect1d(self.bin_C[self.one_C], self.bin_C[self.other_C])
        return (self.one_C | self.other_C) & np.isin(self.bin_C, shared)

    @property
    def enough(self) -> bool:
        return all(int((members_C & self.shared_C).sum()) > 1 for members_C in (self.one_C, self.other_C))

    def __call__(self, weights: Weights) -> float | None:
        total = whole = 0.0
        for place in np.unique(self.bin_C):
            sums = [
                (weight_C.sum(), weight_C @ self.accuracy_C)
                for weight_C in (
                    weights.classes_C * (of_C & (self.bin_C == place)) for of_C in (self.one_C, self.other_C)
                )
            ]
            (one, one_sum), (other, other_sum) = sums
            if one and other:
                total += min(one, other) * (one_sum / one - other_sum / other)
                whole += min(one, other)
        return share(total, whole)


@dataclass(frozen=True)
class AsItIs:
    """The mean accuracy of one group's classes less that of another's."""

    one: ClassAccuracy
    other: ClassAccuracy

    @property
    def enough(self) -> bool:
        return self.one.enough and self.other.enough

    def __call__(self, weights: Weights) -> float | None:
        one, other = self.one(weights), self.other(weights)
        return None if one is None or other is None else one - other


def measure(by: ByClass, attributes: dict[str, dict[str, str]], draws: int, seed: int) -> list[Attribute]:
    """Every attribute's groups, and its largest gap. attributes: {attribute: {identity name: value}}."""
    return [_attribute(by, name, values, draws, seed) for name, values in attributes.items()]


def _attribute(by: ByClass, name: str, value_of: dict[str, str], draws: int, seed: int) -> Attribute:
    values_C = np.array([value_of.get(identity, "") for identity in by.names_C])
    members = {value: values_C == value for value in dict.fromkeys(v for v in value_of.values() if v)}
    members = {value: of_C for value, of_C in members.items() if of_C.any()}
    accuracies = {value: ClassAccuracy(by.hits_C, by.trials_C, of_C) for value, of_C in members.items()}
    figures: dict[str, Figure] = dict(accuracies)
    C = len(by.counts_C)
    ones = Weights(np.ones(C), np.ones(0))
    found = _largest(by, members, ones)
    if found is not None:
        higher, lower, equal, _ = found
        # No value of an attribute holds a tab.
        figures |= {"\tequal": equal, "\tas it is": AsItIs(accuracies[higher], accuracies[lower])}
    ends = bootstrap(figures, C, 0, draws, seed)

    def estimate(key: str) -> Estimate:
        low, high = ends[key] or (None, None)
        return Estimate(value=figures[key](ones), low=low, high=high)

    groups = [
        Group(
            value=value,
            classes=int(of_C.sum()),
            test_images=int(by.trials_C[of_C].sum()),
            training_images=float(np.median(by.counts_C[of_C])),
            accuracy=estimate(value),
        )
        for value, of_C in members.items()
    ]
    gap = None
    if found is not None:
        higher, lower, equal, pairs = found
        gap = Gap(
            higher=higher,
            lower=lower,
            as_it_is=estimate("\tas it is"),
            at_equal_counts=estimate("\tequal"),
            compared=int(equal.shared_C.sum()),
            pairs=pairs,
        )
    return Attribute(name=name, unknown=int((values_C == "").sum()), groups=groups, gap=gap)


def _largest(by: ByClass, members: dict[str, Bools], ones: Weights) -> tuple[str, str, EqualCounts, int] | None:
    """The pair of groups with the largest gap at equal counts, the higher first, and among how many pairs.

    Only pairs of which both have two classes with counterparts: others have no interval.
    """
    bin_C = np.frexp(by.counts_C)[1]
    candidates = []
    for one, other in combinations(members, 2):
        equal = EqualCounts(by.hits_C / by.trials_C, members[one], members[other], bin_C)
        gap = equal(ones) if equal.enough else None
        if gap is not None and gap < 0:
            one, other, equal, gap = other, one, EqualCounts(equal.accuracy_C, equal.other_C, equal.one_C, bin_C), -gap
        if gap is not None:
            candidates.append((gap, one, other, equal))
    if not candidates:
        return None
    _, one, other, equal = max(candidates, key=lambda candidate: candidate[0])
    return one, other, equal, len(candidates)


def table(found: Fairness) -> str:
    """The groups and gaps, in Markdown."""
    lines = [
        f"Top-1 of the closed set in %, mean over classes, with 95 % intervals over classes: {found.classes} classes.",
        "",
        "| attribute | group | classes | test images | training images, median | accuracy |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for attribute in found.attributes:
        for group in attribute.groups:
            numbers = f"{group.classes} | {group.test_images} | {group.training_images:g} | {cell(group.accuracy)}"
            lines.append(f"| {attribute.name} | {group.value} | {numbers} |")
    lines += ["", *(gap_in_words(attribute) for attribute in found.attributes)]
    return "\n".join(lines)


def gap_in_words(attribute: Attribute) -> str:
    """What the gap of an attribute is."""
    gap = attribute.gap
    if gap is None:
        return f"{attribute.name}: no two groups have two classes each with as many training images; no gap."
    among = "" if gap.pairs == 1 else f", the largest of {gap.pairs} pairs"
    return (
        f"{attribute.name}: {gap.higher} above {gap.lower} by {cell(gap.at_equal_counts, '+')} at equal training "
        f"counts ({gap.compared} classes{among}); {cell(gap.as_it_is, '+')} as it is."
    )


def cell(estimate: Estimate, sign: str = "") -> str:
    """A figure in percent, with its interval."""
    if estimate.value is None:
        return "n/a"
    shown = f"{100 * estimate.value:{sign}.1f}"
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


@STYLED
def draw(found: Fairness) -> Picture:
    """A line a group, with its interval; attributes below one another."""
    lines = sum(len(attribute.groups) + 1 for attribute in found.attributes)
    picture = Picture(figsize=(7, 0.8 + 0.32 * lines), layout="constrained")
    axes = picture.add_subplot()
    at, ticks, names = 0, [], []
    for number, attribute in enumerate(found.attributes):
        colour = COLOURS[number % len(COLOURS)]
        for group in attribute.groups:
            value, low, high = (None if x is None else 100 * x for x in dict(group.accuracy).values())
            if value is not None:
                axes.plot(value, at, "o", color=colour)
            if low is not None and high is not None:
                axes.plot([low, high], [at, at], color=colour, linewidth=1.6)
            ticks.append(at)
            names.append(plain(f"{attribute.name}: {group.value} ({group.classes})"))
            at += 1
        if attribute.gap is not None:
            gap = attribute.gap
            said = f"{gap.higher} − {gap.lower} at equal counts: {cell(gap.at_equal_counts, '+')}"
            axes.text(0.01, at - 0.15, plain(said), transform=axes.get_yaxis_transform(), fontsize=8.5, color=colour)
        at += 1
    axes.set_yticks(ticks, names)
    axes.set_ylim(at - 0.4, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="top-1, %, mean over classes (in brackets) with 95 % interval", title="Accuracy by attribute")
    return picture
