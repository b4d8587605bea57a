"""What a report shows of each method, and of one method beside another."""

import numpy as np

from megaface_eval.evaluate import Result, Task
from megaface_eval.protocols import metrics
from megaface_eval.protocols.metrics import Bootstrap, Column, Tallies
from megaface_eval.report.misses import worst_misses

HISTOGRAM = np.linspace(-1, 1, 201)


def cell_of(result: Result, column: Column, bootstrap: Bootstrap) -> dict:
    """One cell of the table: rate, interval, and what it was counted over. All None where it was not measured."""
    if column.probes is None:
        return dict.fromkeys(("rate", "low", "high", "trials", "probes", "identities"))
    tallies = result.tallies[column.key]
    low, high = bootstrap.interval(tallies) or (None, None)
    return {
        "rate": tallies.rate,
        "low": low,
        "high": high,
        "trials": int(tallies.trials.sum()),
        "probes": int(column.probes[np.unique(result.found.query)].sum()),
        "identities": int((tallies.trials > 0).sum()),
    }


def method_record(result: Result, columns: list[Column], task: Task, bootstrap: Bootstrap, images=(None, None)) -> dict:
    """Everything of one method that the report shows."""
    found = result.found
    steps, recall = metrics.cmc(found.ranks[-1])
    sizes = []
    for size, tallies in zip(task.sizes, result.size_tallies, strict=True):
        low, high = bootstrap.interval(tallies) or (None, None)
        sizes.append({"gallery": size, "rate": tallies.rate, "low": low, "high": high})
    nearest = found.best_score[np.unique(found.query)]
    return {
        "name": result.method.name,
        "probes": result.method.probes.where,
        "distractors": result.method.distractors.where,
        "cohort": result.method.cohort and result.method.cohort.where,
        "meta": result.method.probes.meta,
        "cells": {column.key: cell_of(result, column, bootstrap) for column in columns},
        "sizes": sizes,
        "cmc": {"rank": steps.tolist(), "recall": recall.tolist()},
        "verification": result.verification,
        "open_set": result.open_set,
        "scores": {
            "edges": HISTOGRAM.round(2).tolist(),
            "mates": density(found.score),
            "impostors": density(result.impostor_scores),
            "nearest": density(nearest[np.isfinite(nearest)]),
        },
        "misses": worst_misses(found, result.method.probes, result.method.distractors, images),
    }


def density(scores: np.ndarray) -> list[float]:
    """Share of scores in each bin of HISTOGRAM; the outermost bins take what lies beyond."""
    counts, _ = np.histogram(np.clip(scores, -1, 1), HISTOGRAM)
    return (counts / max(len(scores), 1)).tolist()


def differences(names: list[str], tallies: list[dict[str, Tallies]], columns: list[dict], bootstrap: Bootstrap) -> list:
    """Every later method less the first, paired over identities, for each measured column."""
    found = []
    for name, other in zip(names[1:], tallies[1:], strict=True):
        for column in columns:
            one, two = (held.get(column["key"]) for held in (tallies[0], other))
            if one is None or two is None or one.rate is None or two.rate is None:
                continue
            low, high = bootstrap.difference(two, one) or (None, None)
            record = {"method": name, "than": names[0], "column": column["title"]}
            found.append({**record, "difference": two.rate - one.rate, "low": low, "high": high})
    return found


def gaps(names: list[str], tallies: list[dict[str, Tallies]], columns: list[dict], bootstrap: Bootstrap) -> list:
    """Each method's first sub-group less every further one, over the same resamples."""
    found = []
    for name, held in zip(names, tallies, strict=True):
        groups = [c for c in columns if c["key"].startswith("group:") and held[c["key"]].rate is not None]
        for other in groups[1:]:
            one, two = held[groups[0]["key"]], held[other["key"]]
            low, high = bootstrap.difference(one, two) or (None, None)
            record = {"method": name, "group": groups[0]["title"], "than": other["title"]}
            found.append({**record, "difference": one.rate - two.rate, "low": low, "high": high})
    return found


def state(record: dict) -> str:
    """A difference in plain words, and whether it is more than another choice of identities would bring."""
    points = f"{100 * record['difference']:+.2f}"
    if "column" in record:
        what = f"{record['column']}: {record['method']} against {record['than']} {points}"
    else:
        what = f"{record['method']}: {record['group']} against {record['than']} {points}"
    if record["low"] is None:
        return f"{what}; too few identities for an interval."
    within = record["low"] <= 0 <= record["high"]
    verdict = "within the interval: no difference shown" if within else "outside chance"
    return f"{what} (95 % interval {100 * record['low']:+.2f} … {100 * record['high']:+.2f}), {verdict}."
