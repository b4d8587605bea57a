"""From opened feature sets to the contents of a report."""

from dataclasses import dataclass, field

import numpy as np

from . import identification, metrics, pseudo_shot
from .errors import InputError
from .features import FeatureSet
from .gallery import Gallery
from .metrics import Bootstrap, Column, Tallies
from .plots import size_name
from .ranks import Ranks
from .scan import FaissScan


@dataclass(frozen=True)
class Method:
    """One recogniser's view of the probes and of the distractors."""

    name: str
    probes: FeatureSet
    distractors: FeatureSet


@dataclass(frozen=True)
class Task:
    """What every method is asked, and how; see `options` for the meaning of each choice."""

    sizes: list[int]
    protocol: str = "devkit"
    ties: str = "devkit"
    impostors: str = "distractors"
    order: str = "file"
    seed: int = 0
    scan: type = FaissScan
    ranks: Ranks = field(default_factory=Ranks)
    progress: bool = False


@dataclass(frozen=True)
class Result:
    """One method's trials, and per-identity tallies of every column for its intervals."""

    method: Method
    found: identification.Identified
    tallies: dict[str, Tallies]


def check_methods(methods: list[Method]) -> None:
    """Raise InputError unless all methods saw the same probes and each compares like with like."""
    first = methods[0].probes
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"methods {', '.join(names)}: a name is used twice; expected one name a method")
    for method in methods:
        pseudo_shot.same_dimension(method.probes, method.distractors)
        if not np.array_equal(method.probes.labels, first.labels):
            raise InputError(
                f"{method.probes.where} has {len(method.probes)} probes whose labels do not match those of "
                f"{first.where} ({len(first)}); expected the same probes in the same order"
            )


def shot_columns(counts: np.ndarray | None, bounds: tuple[int, int, int], probes: int) -> list[Column]:
    """The columns of the table's left part: four buckets (unmeasured without counts) and the full test."""
    masks = pseudo_shot.bucket_masks(counts, bounds) if counts is not None else {}
    titles = pseudo_shot.bucket_titles(bounds)
    rate = "MegaFace identification rate"
    buckets = [Column(key, titles[key], rate, masks.get(key)) for key in pseudo_shot.BUCKETS]
    return [*buckets, Column("full", "Full", rate, np.ones(probes, bool))]


def group_columns(masks: dict[str, np.ndarray]) -> list[Column]:
    """The columns of the table's right part."""
    return [Column(f"group:{name}", name, "Sub-groups", mask) for name, mask in masks.items()]


def run_method(method: Method, columns: list[Column], task: Task) -> Result:
    """Identify one method's probes and tally every measured column."""
    unit = method.probes.unit(0, len(method.probes))
    gallery = Gallery(method.distractors, task.sizes, task.seed if task.order == "seeded" else None)
    found = identification.identify(
        unit, unit, method.probes.labels, gallery, protocol=task.protocol, ties=task.ties, impostors=task.impostors,
        scan=task.scan, ranks=task.ranks, progress=method.name if task.progress else None,
    )  # fmt: skip
    hit = found.ranks[-1] == 0
    tallies = {
        column.key: metrics.tally(hit, found.query, method.probes.labels, column.probes)
        for column in columns
        if column.probes is not None
    }
    return Result(method, found, tallies)


def cell_of(result: Result, column: Column, bootstrap: Bootstrap) -> dict:
    """One cell of the table: rate, interval, and what it was counted over. All None where it was not measured."""
    if column.probes is None:
        return dict.fromkeys(("rate", "low", "high", "trials", "probes", "identities"))
    tallies = result.tallies[column.key]
    interval = bootstrap.interval(tallies)
    low, high = interval or (None, None)
    queried = np.unique(result.found.query)
    return {
        "rate": tallies.rate,
        "low": low,
        "high": high,
        "trials": int(tallies.trials.sum()),
        "probes": int(column.probes[queried].sum()),
        "identities": int((tallies.trials > 0).sum()),
    }


def method_record(result: Result, columns: list[Column], task: Task, bootstrap: Bootstrap) -> dict:
    """Everything of one method that the report shows."""
    found, labels = result.found, result.method.probes.labels
    steps, recall = metrics.cmc(found.ranks[-1])
    everyone = np.ones(len(labels), bool)
    sizes = []
    for size, ranks in zip(task.sizes, found.ranks, strict=True):
        tallies = metrics.tally(ranks == 0, found.query, labels, everyone)
        low, high = bootstrap.interval(tallies) or (None, None)
        sizes.append({"gallery": size, "rate": tallies.rate, "low": low, "high": high})
    return {
        "name": result.method.name,
        "probes": result.method.probes.where,
        "distractors": result.method.distractors.where,
        "meta": result.method.probes.meta,
        "cells": {column.key: cell_of(result, column, bootstrap) for column in columns},
        "sizes": sizes,
        "cmc": {"rank": steps.tolist(), "recall": recall.tolist()},
    }


def differences(results: list[Result], columns: list[Column], bootstrap: Bootstrap) -> list[dict]:
    """Every later method less the first, paired over identities, for each measured column."""
    found = []
    for other in results[1:]:
        for column in columns:
            if column.probes is None or (one := results[0].tallies[column.key]).rate is None:
                continue
            two = other.tallies[column.key]
            low, high = bootstrap.difference(two, one) or (None, None)
            found.append(
                {"method": other.method.name, "than": results[0].method.name, "column": column.title,
                 "difference": two.rate - one.rate, "low": low, "high": high}
            )  # fmt: skip
    return found


def gaps(result: Result, columns: list[Column], bootstrap: Bootstrap) -> list[dict]:
    """Difference between the first and each further sub-group of one method, over the same resamples."""
    groups = [c for c in columns if c.key.startswith("group:") and result.tallies[c.key].rate is not None]
    found = []
    for other in groups[1:]:
        one, two = result.tallies[groups[0].key], result.tallies[other.key]
        low, high = bootstrap.difference(one, two) or (None, None)
        found.append(
            {"method": result.method.name, "group": groups[0].title, "than": other.title,
             "difference": one.rate - two.rate, "low": low, "high": high}
        )  # fmt: skip
    return found


def state(record: dict) -> str:
    """A difference in plain words, and whether it is more than resampling the identities would show anyway."""
    points = 100 * record["difference"]
    if "column" in record:
        what = f"{record['column']}: {record['method']} is {points:+.2f} points from {record['than']}"
    else:
        what = f"{record['method']}: {record['group']} is {points:+.2f} points from {record['than']}"
    if record["low"] is None:
        return f"{what}; too few identities for an interval."
    interval = f"95 % interval {100 * record['low']:+.2f} … {100 * record['high']:+.2f}"
    within = record["low"] <= 0 <= record["high"]
    return (
        f"{what} ({interval}): {'within chance of the choice of identities' if within else 'a real difference here'}."
    )


def gallery_name(sizes: list[int]) -> str:
    """The nested sizes in words."""
    return ", ".join(size_name(size) for size in sizes)
