"""A report filled in: what it shows of each method, of one method beside another, and of what made it."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

import matplotlib
import numpy as np

from megaface_eval.evaluate import Evaluation, Result
from megaface_eval.protocols import metrics
from megaface_eval.protocols.metrics import Bootstrap, Column, Tallies
from megaface_eval.report import schema
from megaface_eval.report.conventions import conventions_of
from megaface_eval.report.misses import worst_misses
from megaface_eval.search.faiss_scan import engine
from megaface_eval.settings import Settings


def report_of(evaluation: Evaluation, command: str) -> schema.Report:
    """The whole report. command: what to type to make it again."""
    settings, shots, probes = evaluation.settings, evaluation.shots, evaluation.loaded.probes
    bootstrap = Bootstrap(len(np.unique(probes.labels)), seed=settings.seed)
    heads = [schema.ColumnHead(key=c.key, title=c.title, group=c.group) for c in evaluation.columns]
    names = [method.name for method in evaluation.loaded.methods]
    tallies = [result.tallies for result in evaluation.results]
    between, within = differences(names, tallies, heads, bootstrap), gaps(names, tallies, heads, bootstrap)
    recorded = {**settings.recorded, "similarity": None if shots is None else shots.similarity}
    return schema.Report(
        format=schema.FORMAT,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions=versions(evaluation),
        settings=schema.SettingsReport(**recorded),
        gallery=schema.GallerySizes(size=settings.gallery_size, sizes=settings.sizes),
        probes=schema.ProbeCounts(images=len(probes), identities=len(np.unique(probes.labels))),
        columns=heads,
        groups=headings(heads),
        methods=[method_report(result, evaluation.columns, settings, bootstrap) for result in evaluation.results],
        differences=between,
        gaps=within,
        statements=[state(one) for one in [*between, *within]],
        conventions=conventions_of(evaluation),
        pseudo_shots=None if shots is None else histogram(shots.similar_Q, shots.similarity),
    )


def cell_of(result: Result, column: Column, bootstrap: Bootstrap) -> schema.Cell:
    """One cell of the table: rate, interval, and what it was counted over. All None where it was not measured."""
    if column.probes is None:
        return schema.Cell(rate=None, low=None, high=None, trials=None, probes=None, identities=None)
    tallies = result.tallies[column.key]
    low, high = bootstrap.interval(tallies)
    return schema.Cell(
        rate=tallies.rate,
        low=low,
        high=high,
        trials=int(tallies.trials.sum()),
        probes=int(column.probes[np.unique(result.found.query)].sum()),
        identities=int((tallies.trials > 0).sum()),
    )


def method_report(
    result: Result, columns: list[Column], settings: Settings, bootstrap: Bootstrap
) -> schema.MethodReport:
    """Everything of one method that the report shows."""
    found, method = result.found, result.method
    steps, recall = metrics.cmc(found.ranks[-1])
    sizes = []
    for size, tallies in zip(settings.sizes, result.size_tallies, strict=True):
        low, high = bootstrap.interval(tallies)
        sizes.append(schema.SizeRate(gallery=size, rate=tallies.rate, low=low, high=high))
    nearest = found.best_score[np.unique(found.query)]
    opened = result.open_set
    return schema.MethodReport(
        name=method.name,
        probes=method.probes.where,
        distractors=method.distractors.where,
        cohort=method.cohort.where if method.cohort is not None else None,
        meta=method.probes.meta,
        cells={column.key: cell_of(result, column, bootstrap) for column in columns},
        sizes=sizes,
        cmc=schema.Cmc(rank=steps.tolist(), recall=recall.tolist()),
        verification=schema.Verification(**result.verification) if result.verification else None,
        open_set={name: schema.OpenSet(**figures) for name, figures in opened.items()} if opened else None,
        scores=schema.Scores(
            edges=schema.HISTOGRAM.round(2).tolist(),
            mates=density(found.score),
            impostors=density(result.impostor_scores),
            nearest=density(nearest[np.isfinite(nearest)]),
        ),
        misses=worst_misses(found, method.probes, method.distractors, settings.sources),
    )


def density(scores: np.ndarray) -> list[float]:
    """Share of scores in each bin of HISTOGRAM; the outermost bins take what lies beyond."""
    counts, _ = np.histogram(np.clip(scores, -1, 1), schema.HISTOGRAM)
    return (counts / max(len(scores), 1)).tolist()


def histogram(similar_Q: np.ndarray, similarity: float) -> schema.PseudoShotHistogram:
    """How many probes have each number of similar training images, so that other bounds need no second search."""
    similar, probes = np.unique(similar_Q, return_counts=True)
    return schema.PseudoShotHistogram(similarity=similarity, similar=similar.tolist(), probes=probes.tolist())


def headings(columns: list[schema.ColumnHead]) -> list[schema.Heading]:
    """Runs of columns under one heading."""
    return [schema.Heading(title=title, columns=len(list(run))) for title, run in groupby(columns, lambda c: c.group)]


def versions(evaluation: Evaluation) -> dict[str, str]:
    """What computed the figures."""
    return {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "faiss": engine(),
        "matplotlib": matplotlib.__version__,
        "search": evaluation.search_note,
        "processes": str(evaluation.processes.size),
    }


def differences(
    names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead], bootstrap: Bootstrap
) -> list[schema.Difference]:
    """Every later method less the first, paired over identities, for each measured column."""
    found = []
    for name, other in zip(names[1:], tallies[1:], strict=True):
        for column in columns:
            one, two = (held.get(column.key) for held in (tallies[0], other))
            if one is None or two is None or one.rate is None or two.rate is None:
                continue
            low, high = bootstrap.difference(two, one)
            difference = two.rate - one.rate
            found.append(
                schema.Difference(
                    method=name, than=names[0], column=column.title, difference=difference, low=low, high=high
                )
            )
    return found


def gaps(
    names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead], bootstrap: Bootstrap
) -> list[schema.Gap]:
    """Each method's first sub-group less every further one, over the same resamples."""
    found = []
    for name, held in zip(names, tallies, strict=True):
        groups = [(c.title, held[c.key]) for c in columns if c.key.startswith("group:") and c.key in held]
        measured = [(title, counted, counted.rate) for title, counted in groups if counted.rate is not None]
        for than, other, its_rate in measured[1:]:
            group, first, rate = measured[0]
            low, high = bootstrap.difference(first, other)
            found.append(
                schema.Gap(method=name, group=group, than=than, difference=rate - its_rate, low=low, high=high)
            )
    return found


def state(shown: schema.Difference | schema.Gap) -> str:
    """A difference in plain words, and whether it is more than another choice of identities would bring."""
    points = f"{100 * shown.difference:+.2f}"
    if isinstance(shown, schema.Difference):
        what = f"{shown.column}: {shown.method} against {shown.than} {points}"
    else:
        what = f"{shown.method}: {shown.group} against {shown.than} {points}"
    if shown.low is None or shown.high is None:
        return f"{what}; too few identities for an interval."
    within = shown.low <= 0 <= shown.high
    verdict = "within the interval: no difference shown" if within else "outside chance"
    return f"{what} (95 % interval {100 * shown.low:+.2f} … {100 * shown.high:+.2f}), {verdict}."
