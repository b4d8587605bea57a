"""From opened feature sets to every method's results."""

from dataclasses import dataclass, replace

import numpy as np

from megaface_eval.features.feature_set import FeatureSet
from megaface_eval.features.gallery import Gallery
from megaface_eval.loading import Loaded, Method, load
from megaface_eval.processes import Processes
from megaface_eval.protocols import fairness, metrics, open_set, pseudo_shot, quality, threshold, verification
from megaface_eval.protocols.cohort import Cohort
from megaface_eval.protocols.identification import Identified, identify
from megaface_eval.protocols.metrics import Column, Tallies
from megaface_eval.protocols.open_set import OpenSetRule
from megaface_eval.protocols.probes import Probes
from megaface_eval.protocols.pseudo_shot import PseudoShots, pseudo_shots
from megaface_eval.protocols.verification import Pairs
from megaface_eval.search.choose import choose_scan
from megaface_eval.search.kept import Kept
from megaface_eval.search.ranks import Search
from megaface_eval.settings import Settings

RATE = "MegaFace identification rate"
MOST_TIED = 0.01  # share of trials


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one method reaches.

    tallies: of every measured column in the largest gallery. size_tallies: of all probes in each nested gallery.
    verification, open_set, quality, fairness: figures as report.json holds them; None where not measured, and on all
    ranks but 0.
    impostor_scores: of the non-mated pairs of probes that were verified.
    """

    method: Method
    found: Identified
    tallies: dict[str, Tallies]
    size_tallies: list[Tallies]
    verification: dict | None = None
    open_set: dict | None = None
    quality: dict | None = None
    fairness: dict | None = None
    impostor_scores: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that a report is made of.

    shots: None without a training set. search_note: how blocks were searched, and why so. warnings: what looks wrong,
    in words.
    """

    settings: Settings
    loaded: Loaded
    shots: PseudoShots | None
    columns: list[Column]
    results: list[Result]
    search_note: str
    processes: Processes
    warnings: tuple[str, ...] = ()


def evaluate(settings: Settings, processes: Processes) -> Evaluation:
    """Open the feature sets and measure every method. Raises InputError for whatever does not fit together."""
    loaded = load(settings)
    probes, likeness, shots = loaded.probes, loaded.likeness, None
    if settings.errors.quality or settings.errors.fairness:
        for method in loaded.methods:
            for name in settings.errors.quality:
                acceptance_score(method.probes, name)  # a file that is not there is said before the search
        compared = verification.whole_identities(probes.labels, verification.MOST_PROBES, settings.seed)
        threshold.check_measurable(probes.labels[compared], settings.errors.fmr)
    scan, note = choose_scan(settings.search, probes, loaded.methods[0].distractors, settings.gallery_size, processes)
    kept = Kept(settings.output.kept, "pseudo-shots") if settings.output.resume else None
    search = Search(scan=scan, processes=processes, progress="pseudo-shots", kept=kept)
    if likeness is not None:
        shots = pseudo_shots(likeness.probes, likeness.train, settings.shots, search, settings.seed)
    columns = shot_columns(shots and shots.similar_Q, settings.shots.bounds, len(probes)) + group_columns(loaded.groups)
    results = [evaluate_method(m, columns, settings, search, loaded.dropped) for m in loaded.methods]
    return Evaluation(
        settings=settings, loaded=loaded, shots=shots, columns=columns, results=results, search_note=note,
        processes=processes, warnings=(*loaded.warnings, *filter(None, map(many_ties, results))),
    )  # fmt: skip


def many_ties(result: Result) -> str | None:
    """A warning where more than MOST_TIED of a method's trials hang on how ties are counted."""
    share = result.found.tied.mean()
    if share <= MOST_TIED:
        return None
    return (
        f"{result.method.name}: in {100 * share:.1f} % of trials an impostor scores exactly as the mate does; --ties "
        "decides these, and features that are partly alike make them"
    )


def shot_columns(similar_Q: np.ndarray | None, bounds: tuple[int, int, int], probes: int) -> list[Column]:
    """The columns of the table's left part: four buckets (unmeasured without counts) and the full test."""
    masks = pseudo_shot.bucket_masks(similar_Q, bounds) if similar_Q is not None else {}
    titles = pseudo_shot.bucket_titles(bounds)
    buckets = [Column(key, titles[key], RATE, masks.get(key)) for key in pseudo_shot.BUCKETS]
    return [*buckets, Column("full", "Full", RATE, np.ones(probes, bool))]


def group_columns(masks: dict[str, dict[str, np.ndarray]]) -> list[Column]:
    """The columns of the table's right part, under a heading for each attribute where there are several."""
    heading = "Sub-groups" if len(masks) == 1 else "Sub-groups: {}"
    return [
        Column(f"group:{name}", name, heading.format(attribute), mask)
        for attribute, groups in masks.items()
        for name, mask in groups.items()
    ]


def evaluate_method(
    method: Method, columns: list[Column], settings: Settings, search: Search, dropped: np.ndarray | None = None
) -> Result:
    """Identify one method's probes and tally every measured column; on rank 0 also verification and open set.

    dropped: distractor rows (bool, N) that take no part. Raises InputError for features that cannot be compared.
    """
    labels = method.probes.labels
    cohort = Cohort.of(method.cohort, settings.cohort) if method.cohort is not None else None
    probes = Probes(method.probes.unit(0, len(labels)), labels, cohort)
    seed = settings.seed if settings.seeded else None
    gallery = Gallery(method.distractors, settings.sizes, seed, dropped, cohort.members if cohort else None)
    kept = search.kept.named(f"method {method.name}") if search.kept is not None else None
    found = identify(probes, gallery, settings.rules, replace(search, progress=method.name, kept=kept))
    hit = found.ranks[-1] == 0
    tallies = {c.key: metrics.tally(hit, found.query, labels, c.probes) for c in columns if c.probes is not None}
    everyone = np.ones(len(labels), bool)
    sizes = [metrics.tally(ranks == 0, found.query, labels, everyone) for ranks in found.ranks]
    verified, opened, by_quality, by_group, impostors = None, None, None, None, np.empty(0)
    if search.processes.rank == 0:
        kept = verification.whole_identities(labels, verification.MOST_PROBES, settings.seed)
        if len(kept):
            pairs = verification.probe_pairs(probes.queries_QD[kept], probes.members_QD[kept], labels[kept])
            verified, impostors = verify(method, kept, pairs, settings.seed), pairs.nonmated
            if settings.errors.quality:
                by_quality = qualities(method, found, kept, pairs, settings.errors)
            if settings.errors.fairness:
                by_group = group_errors(columns, labels, kept, pairs, settings.errors.fmr)
        if settings.open_set is not None and len(np.unique(labels)) > 1:
            opened = open_sets(method, probes, settings.open_set, settings, found.best_score)
    return Result(
        method=method, found=found, tallies=tallies, size_tallies=sizes, verification=verified, open_set=opened,
        quality=by_quality, fairness=by_group, impostor_scores=impostors,
    )  # fmt: skip


def verify(method: Method, kept: np.ndarray, pairs: Pairs, seed: int) -> dict:
    """Verification's figures over the pairs of the kept rows of the probes.

    `sample` in the figures is None if all probes were compared, or says which were.
    """
    labels = method.probes.labels
    figures = verification.verify(pairs, seed=seed, progress=method.name)
    sample = None
    if len(kept) < len(labels):
        identities = [method.probes.name_of(label) for label in np.unique(labels[kept]).tolist()]
        sample = {"images": len(kept), "of": len(labels), "seed": seed, "identities": identities}
    return {**figures, "sample": sample}


def qualities(method: Method, found: Identified, kept: np.ndarray, pairs: Pairs, rule: threshold.ErrorRule) -> dict:
    """Error against reject by each quality: {name: figures}; false non-matches over the kept rows, rank-1 over all."""
    labels = method.probes.labels
    refused = threshold.refused_at(pairs.nonmated, rule.fmr)
    missed, trials = found.ranks[-1] > 0, np.stack([found.query, found.mate], axis=1)
    mated = threshold.mated_rows(labels[kept])
    measured = {}
    for name in rule.quality:
        good = acceptance_score(method.probes, name)
        verified = quality.Trials.of(pairs.mated <= refused, mated, good[kept], labels[kept])
        measured[name] = {
            "fmr": rule.fmr,
            "refused": refused,
            "false_non_match": quality.measure(verified),
            "rank1": quality.measure(quality.Trials.of(missed, trials, good, labels)),
        }
    return measured


def group_errors(columns: list[Column], labels: np.ndarray, kept: np.ndarray, pairs: Pairs, fmr: float) -> dict:
    """Both errors of every sub-group at one threshold, over the pairs of the kept rows of the probes."""
    _, first = np.unique(labels[kept], return_index=True)
    groups = [
        (column.group, column.title, column.probes[kept][first])
        for column in columns
        if column.key.startswith("group:") and column.probes is not None
    ]
    refused = threshold.refused_at(pairs.nonmated, fmr)
    return {"fmr": fmr, "refused": refused, "groups": fairness.measure(pairs, refused, groups)}


def open_sets(
    method: Method, probes: Probes, rule: OpenSetRule, settings: Settings, best_distractor: np.ndarray
) -> dict:
    """Open-set figures under the cosine and under every rejection score: {name: figures}.

    best_distractor: each probe's highest score among the distractors (Q).
    """
    splits = open_set.split_galleries(probes.labels_Q, rule.enrol, settings.seed)
    distractor = best_distractor if rule.gallery == "gallery" else None
    measured = {}
    for name in ("cosine", *rule.rejections):
        acceptance = None if name == "cosine" else acceptance_score(method.probes, name)
        searches = [
            open_set.search_split(
                split, probes, distractor=distractor, pessimistic=settings.rules.pessimistic, acceptance=acceptance
            )
            for split in splits
        ]
        measured[name] = open_set.measure(searches, seed=settings.seed)
    return measured


def acceptance_score(probes: FeatureSet, name: str) -> np.ndarray:
    """A score by which probes are accepted as known (Q, higher accepts): `norm`, or a .npy beside the features.

    A name that begins with - is negated: for scores that are low for the known, such as reachability's distance.
    """
    sign, plain = (-1.0, name[1:]) if name.startswith("-") else (1.0, name)
    return sign * (probes.norms() if plain == "norm" else probes.column(plain))
