"""A report filled in: what it shows of each method, of one method beside another, and of what made it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import matplotlib
import numpy as np

from megaface_eval.evaluate import Evaluation, Result
from megaface_eval.protocols import metrics
from megaface_eval.protocols.metrics import Column, Contrast, Tallies
from megaface_eval.report import schema
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
    claims = held_together(names, tallies, heads)
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
        methods=[method_report(result, evaluation.columns, settings) for result in evaluation.results],
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


@dataclass(frozen=True)
class Claims:
    """What a report says of one rate beside another, each held against how many are said."""

    differences: list[schema.Difference]
    gaps: list[schema.Gap]

    @property
    def statements(self) -> list[str]:
        """All of them in words: differences, then gaps."""
        claims = [*self.differences, *self.gaps]
        among = sum(claim.p is not None for claim in claims)
        return [state(claim, among) for claim in claims]


def held_together(names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead]) -> Claims:
    """All differences and gaps of a report, with intervals, and which of them hold by Holm's rule."""
    between, within = differences(names, tallies, columns), gaps(names, tallies, columns)
    measured = [found for _, found in [*between, *within] if found is not None]
    holds, levels = metrics.holm(np.array([float(found.p) for found in measured]))
    held = iter(zip(holds.tolist(), levels.tolist(), strict=True))

    def judged(claim, found: Contrast | None):
        if found is None:
            return claim
        shown, level = next(held)
        low, high = found.ends()
        least = max(float(part) for part in found.reach(level))
        changed = {"low": float(low), "high": float(high), "p": float(found.p), "shown": shown, "least": least}
        return claim.model_copy(update=changed)

    return Claims([judged(*one) for one in between], [judged(*one) for one in within])


def differences(
    names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead]
) -> list[tuple[schema.Difference, Contrast | None]]:
    """Every later method less the first, paired over identities, for each measured column; not yet judged."""
    found = []
    for name, other in zip(names[1:], tallies[1:], strict=True):
        for column in columns:
            one, two = (held.get(column.key) for held in (tallies[0], other))
            if one is None or two is None or one.rate is None or two.rate is None:
                continue
            claim = schema.Difference(
                method=name, than=names[0], column=column.title, difference=two.rate - one.rate, low=None, high=None
            )
            found.append((claim, metrics.contrast(two, one)))
    return found


def gaps(
    names: list[str], tallies: list[dict[str, Tallies]], columns: Sequence[schema.ColumnHead]
) -> list[tuple[schema.Gap, Contrast | None]]:
    """Each method's first sub-group of an attribute less every further one of it; not yet judged."""
    found = []
    groups = [column for column in columns if column.key.startswith("group:")]
    for name, held in zip(names, tallies, strict=True):
        for _, attribute in groupby(groups, lambda c: c.group):
            counted = [(c.title, held[c.key]) for c in attribute if c.key in held]
            measured = [(title, tally, tally.rate) for title, tally in counted if tally.rate is not None]
            for than, other, its_rate in measured[1:]:
                group, first, rate = measured[0]
                claim = schema.Gap(method=name, group=group, than=than, difference=rate - its_rate, low=None, high=None)
                found.append((claim, metrics.contrast(first, other)))
    return found


def state(claim: schema.Difference | schema.Gap, among: int) -> str:
    """A difference in plain words, and whether it is more than another choice of identities would bring.

    among: number of statements that it was judged with.
    """
    points = f"{100 * claim.difference:+.2f}"
    if isinstance(claim, schema.Difference):
        what = f"{claim.column}: {claim.method} against {claim.than} {points}"
    else:
        what = f"{claim.method}: {claim.group} against {claim.than} {points}"
    if claim.low is None or claim.high is None or claim.least is None:
        return f"{what}; too few identities to tell."
    what += f" (95 % interval {100 * claim.low:+.2f} … {100 * claim.high:+.2f})"
    if claim.shown:
        return f"{what}, outside chance."
    counted = "" if claim.low <= 0 <= claim.high else f" among {among} comparisons"
    return f"{what}: no difference shown{counted}; this set could show one above {100 * claim.least:.2f}."
