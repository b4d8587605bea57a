"""A report filled in: what it shows of each method and of what made it."""

import sys
from datetime import UTC, datetime
from itertools import groupby

import matplotlib
import numpy as np

from megaface_eval.evaluate import Evaluation, Result
from megaface_eval.protocols import metrics
from megaface_eval.protocols.metrics import Column
from megaface_eval.report import schema
from megaface_eval.report.claims import error_gaps, held_together
from megaface_eval.report.conventions import conventions_of
from megaface_eval.report.misses import closest_hits, worst_misses
from megaface_eval.search.faiss_scan import engine
from megaface_eval.settings import Settings


def report_of(evaluation: Evaluation, command: str) -> schema.Report:
    """The whole report. command: what to type to make it again."""
    settings, shots, probes = evaluation.settings, evaluation.shots, evaluation.loaded.probes
    heads = [schema.ColumnHead(key=c.key, title=c.title, group=c.group) for c in evaluation.columns]
    names = [method.name for method in evaluation.loaded.methods]
    tallies = [result.tallies for result in evaluation.results]
    methods = [method_report(result, evaluation.columns, settings) for result in evaluation.results]
    claims = held_together(names, tallies, heads, error_gaps(methods))
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
        methods=methods,
        differences=claims.differences,
        gaps=claims.gaps,
        statements=claims.statements,
        conventions=conventions_of(evaluation),
        pseudo_shots=None if shots is None else histogram(shots.similar_Q, shots.similarity),
    )


def cell_of(result: Result, column: Column) -> schema.Cell:
    """One cell of the table: rate, interval, and what it was counted over. All None where it was not measured."""
    if column.probes is None:
        return schema.Cell(rate=None, low=None, high=None, trials=None, probes=None, identities=None)
    tallies = result.tallies[column.key]
    low, high = metrics.interval(tallies)
    return schema.Cell(
        rate=tallies.rate,
        low=low,
        high=high,
        trials=int(tallies.trials.sum()),
        probes=int(column.probes[np.unique(result.found.query)].sum()),
        identities=int((tallies.trials > 0).sum()),
    )


def method_report(result: Result, columns: list[Column], settings: Settings) -> schema.MethodReport:
    """Everything of one method that the report shows."""
    found, method = result.found, result.method
    steps, recall = metrics.cmc(found.ranks[-1])
    sizes = []
    for size, tallies in zip(settings.sizes, result.size_tallies, strict=True):
        low, high = metrics.interval(tallies)
        sizes.append(schema.SizeRate(gallery=size, rate=tallies.rate, low=low, high=high))
    nearest = found.best_score[np.unique(found.query)]
    opened = result.open_set
    return schema.MethodReport(
        name=method.name,
        probes=method.probes.where,
        distractors=method.distractors.where,
        cohort=method.cohort.where if method.cohort is not None else None,
        meta=method.probes.meta,
        cells={column.key: cell_of(result, column) for column in columns},
        sizes=sizes,
        ties=int(found.tied.sum()),
        cmc=schema.Cmc(rank=steps.tolist(), recall=recall.tolist()),
        verification=schema.Verification(**result.verification) if result.verification else None,
        open_set={name: schema.OpenSet(**figures) for name, figures in opened.items()} if opened else None,
        quality={n: schema.Quality(**one) for n, one in result.quality.items()} if result.quality else None,
        fairness=schema.Fairness(**result.fairness) if result.fairness else None,
        scores=schema.Scores(
            edges=schema.HISTOGRAM.round(2).tolist(),
            mates=density(found.score),
            impostors=density(result.impostor_scores),
            nearest=density(nearest[np.isfinite(nearest)]),
        ),
        misses=worst_misses(found, method.probes, method.distractors, settings.sources),
        hits=closest_hits(found, method.probes, method.distractors, settings.sources),
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
