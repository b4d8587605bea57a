"""Figures of IJB as a sheet: 1:1 and 1:N, for every method, with the rules that they were taken by."""

from dataclasses import dataclass

import numpy as np

from megaface_eval.protocols import metrics, open_set, templates, verification
from megaface_eval.protocols.metrics import Tallies
from megaface_eval.protocols.templates import PoolingRule, Searched
from megaface_eval.report.sheet import Entry, SheetColumn, SheetCurve, SheetRow, SheetTable, curve_of

FAR_RULES = ("strict", "nearest")
FAR_RULE = {
    "strict": "TAR at FAR, strict: at the lowest threshold whose FAR is not above the one named; – where fewer than "
    "1/FAR pairs of two people exist.",
    "nearest": "TAR at FAR, nearest: at the corner of the ROC whose FAR is nearest to the one named, above or below, "
    "as insightface's ijb_11.py takes it.",
}


@dataclass(frozen=True)
class Measured:
    """One method. pairs: scores of one person, and of two (falling); None without 1:1. searched: None without 1:N."""

    name: str
    pairs: tuple[np.ndarray, np.ndarray] | None
    searched: Searched | None


def verification_table(measured: list[Measured], far_rule: str) -> SheetTable:
    """TAR at every FAR, EER, and the area under the ROC."""
    columns = [SheetColumn(title=f"TAR at FAR {far:.0e}".replace("e-0", "e-")) for far in verification.FARS]
    columns += [SheetColumn(title="EER"), SheetColumn(title="AUC")]
    rows = []
    for method in measured:
        assert method.pairs is not None
        mated, nonmated = method.pairs
        entries = tar_entries(mated, nonmated, far_rule)
        entries.append(Entry(value=verification.equal_error_rate(mated, nonmated)))
        rows.append(SheetRow(name=method.name, entries=[*entries, Entry(value=verification.area(mated, nonmated))]))
    return SheetTable(title="1:1, %", columns=columns, rows=rows)


def tar_entries(mated: np.ndarray, nonmated: np.ndarray, far_rule: str) -> list[Entry]:
    """TAR and its threshold at each of FARS."""
    if far_rule == "strict":
        return [
            Entry(
                value=verification.tar_at(mated, nonmated, far),
                threshold=verification.threshold_at(mated, nonmated, far),
            )
            for far in verification.FARS
        ]
    curve, entries = verification.corners(mated, nonmated), []
    for far in verification.FARS:
        tar, threshold, _ = verification.tar_nearest(curve, far)
        entries.append(Entry(value=tar, threshold=threshold if np.isfinite(threshold) else None))
    return entries


def identification_table(measured: list[Measured], names: tuple[str, str], seed: int) -> SheetTable:
    """TPIR and rank-k of each gallery, of their mean and of both put together."""
    columns = [SheetColumn(title=f"TPIR at FPIR {fpir:g}") for fpir in templates.FPIRS]
    columns += [SheetColumn(title=f"rank-{rank}") for rank in templates.RANKS]
    columns += [SheetColumn(title=name, unit="count") for name in ("mated", "non-mated", "enrolled")]
    rows = []
    for method in measured:
        assert method.searched is not None
        for name, entries in identification_entries(method.searched, names, seed).items():
            rows.append(SheetRow(name=f"{method.name}, {name}", entries=entries))
    return SheetTable(title="1:N, %", columns=columns, rows=rows)


def identification_entries(found: Searched, names: tuple[str, str], seed: int) -> dict[str, list[Entry]]:
    """A line of the table for each gallery, for their mean and for both put together."""
    figures = open_set.measure([found.of(0), found.of(1)], seed=seed)
    at = {level["fpir"]: level for level in figures["tpir_at_fpir"]}
    queries = len(found.own)
    lines: dict[str, list[Entry]] = {}
    for gallery, name in enumerate(names):
        mated, key = found.home == gallery, ("g1", "g2")[gallery]
        counts = (mated.sum(), queries - mated.sum(), found.gallery_sizes[gallery])
        lines[name] = [Entry(value=at[fpir][key]) for fpir in templates.FPIRS]
        lines[name] += [_rank_entry(found.rank, found.subject, mated, k) for k in templates.RANKS]
        lines[name] += [Entry(value=float(count)) for count in counts]
    mean = [Entry(**{part: at[fpir][key] for part, key in _MEAN.items()}) for fpir in templates.FPIRS]
    for place in range(len(templates.FPIRS), len(templates.FPIRS) + len(templates.RANKS)):
        values = [lines[name][place].value for name in names]
        whole = None not in values
        mean.append(Entry(value=float(np.mean([v for v in values if v is not None])) if whole else None))
    lines["mean"] = [*mean, *(Entry(value=None) for _ in range(3))]
    both = [templates.tpir_of_both(found, fpir) for fpir in templates.FPIRS]
    together = [Entry(value=value, threshold=threshold) for value, threshold in both]
    everyone = np.ones(queries, bool)
    together += [_rank_entry(found.rank_in_both, found.subject, everyone, k) for k in templates.RANKS]
    counts = (queries, 0, sum(found.gallery_sizes))
    lines[" ∪ ".join(names)] = [*together, *(Entry(value=float(count)) for count in counts)]
    return lines


_MEAN = {"value": "mean", "low": "low", "high": "high"}


def _rank_entry(rank: np.ndarray, subject: np.ndarray, chosen: np.ndarray, k: int) -> Entry:
    """The share of chosen probes whose mate is among the first k, with its interval over subjects."""
    if not chosen.any():
        return Entry(value=None)
    of = np.unique(subject[chosen], return_inverse=True)[1]
    tallies = Tallies(np.bincount(of, weights=rank[chosen] < k), np.bincount(of).astype(float))
    low, high = metrics.interval(tallies)
    return Entry(value=tallies.rate, low=low, high=high)


def curves_of(measured: list[Measured], names: tuple[str, str]) -> list[SheetCurve]:
    """ROC and DET of 1:1, and TPIR against FPIR in each gallery."""
    curves = []
    for method in measured:
        if method.pairs is not None:
            far, tar, threshold = verification.roc(*method.pairs)
            curves.append(curve_of("ROC", method.name, (far, tar), threshold))
            curves.append(curve_of("DET", method.name, (far, 1 - tar), threshold))
        if method.searched is not None:
            for gallery, name in enumerate(names):
                fpir, tpir = open_set.curve(method.searched.of(gallery))
                curves.append(curve_of("TPIR", f"{method.name}, {name}", (fpir, tpir), np.full(len(fpir), np.nan)))
    return curves


def conventions(rule: PoolingRule, far_rule: str | None, pessimistic: bool, names: tuple[str, str] | None) -> list[str]:
    """The rules in force, in a line each. far_rule, names: None where there was no 1:1 and no 1:N."""
    flips = {"off": "the image's alone", "add": "the sum of the image's and its mirror image's"}
    flips["concat"] = "the image's and its mirror image's side by side"
    lines = [
        f"Feature: {flips[rule.flip]}; "
        + ("weighing by its length" if rule.norm == "weigh" else "scaled to length 1")
        + (", times the detector's score." if rule.detector == "weigh" else "; the detector's score is ignored."),
        "Template: the images of a media are averaged, the media's means summed, the sum scaled to length 1. Score: "
        f"the cosine of two templates in float64, rounded to {verification.DIGITS} digits.",
    ]
    if far_rule is not None:
        lines += [FAR_RULE[far_rule], "1:1 has no intervals: the list of pairs does not say whose templates they are."]
    if names is not None:
        one, two = names
        lines += [
            f"{one}, {two}: each gallery by itself; probes whose mate is in the other are non-mated. FPIR: the share "
            "of non-mated probes whose highest score reaches the threshold, the lowest whose FPIR is not above the one "
            "named. TPIR: the share of mated probes whose mate is at rank 1 and reaches it. mean: of both.",
            f"{one} ∪ {two}: insightface's ijb_1n.py: one gallery, every probe has its mate; with Q probes the "
            "threshold is the ⌈Q·FPIR⌉-th highest score of any other person's template; TPIR is the share of mates "
            "above it, at any rank.",
            "Ties: an equal score beats the mate." if pessimistic else "Ties: only a higher score beats the mate.",
            "Intervals: 95 %, over subjects.",
        ]
    return lines
