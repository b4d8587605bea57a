"""From opened feature sets to every method's results."""

from dataclasses import dataclass, field

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet
from megaface_eval.features.gallery import Gallery
from megaface_eval.processes import Ranks
from megaface_eval.protocols import identification, metrics, open_set, pseudo_shot, verification
from megaface_eval.protocols.cohort import Cohort
from megaface_eval.protocols.metrics import Column, Tallies
from megaface_eval.search.candidates import Scan
from megaface_eval.search.product import ProductScan

RATE = "MegaFace identification rate"


@dataclass(frozen=True)
class Method:
    """One recogniser's view of the probes and of the distractors, and of a score cohort if there is one."""

    name: str
    probes: FeatureSet
    distractors: FeatureSet
    cohort: FeatureSet | None = None


@dataclass(frozen=True)
class Task:
    """What every method is asked, and how; see `options` for the meaning of each choice."""

    sizes: list[int]
    protocol: str = "devkit"
    ties: str = "devkit"
    impostors: str = "distractors"
    order: str = "file"
    seed: int = 0
    scan: Scan = ProductScan
    dropped: np.ndarray | None = None
    cohort_k: int = 20
    cohort_weight: float = 0.5
    cohort_form: str = "gallery"
    open_set: str = "enrolled"
    enrol: int = 1
    rejections: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
    progress: bool = False


@dataclass(frozen=True)
class Result:
    """One method's trials, per-identity tallies of every measured column, and the further protocols' figures."""

    method: Method
    found: identification.Identified
    tallies: dict[str, Tallies]
    size_tallies: list[Tallies]
    verification: dict | None
    open_set: dict | None
    impostor_scores: np.ndarray


def check_methods(methods: list[Method]) -> None:
    """Raise InputError unless all methods saw the same probes and each compares like with like."""
    first = methods[0].probes
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"methods {', '.join(names)}: a name is used twice; expected one name a method")
    for method in methods:
        pseudo_shot.same_dimension(method.probes, method.distractors)
        if method.cohort is not None:
            pseudo_shot.same_dimension(method.probes, method.cohort)
        if not np.array_equal(method.probes.labels, first.labels):
            raise InputError(
                f"{method.probes.where} has {len(method.probes)} probes whose labels do not match those of "
                f"{first.where} ({len(first)}); expected the same probes in the same order"
            )


def shot_columns(counts: np.ndarray | None, bounds: tuple[int, int, int], probes: int) -> list[Column]:
    """The columns of the table's left part: four buckets (unmeasured without counts) and the full test."""
    masks = pseudo_shot.bucket_masks(counts, bounds) if counts is not None else {}
    titles = pseudo_shot.bucket_titles(bounds)
    buckets = [Column(key, titles[key], RATE, masks.get(key)) for key in pseudo_shot.BUCKETS]
    return [*buckets, Column("full", "Full", RATE, np.ones(probes, bool))]


def group_columns(masks: dict[str, np.ndarray]) -> list[Column]:
    """The columns of the table's right part."""
    return [Column(f"group:{name}", name, "Sub-groups", mask) for name, mask in masks.items()]


def run_method(method: Method, columns: list[Column], task: Task, further: bool = False) -> Result:
    """Identify one method's probes and tally every measured column.

    further: also verification and open-set identification. Only the first rank needs those.
    """
    unit = method.probes.unit(0, len(method.probes))
    labels = method.probes.labels
    cohort = method.cohort and Cohort.of(method.cohort, task.cohort_k, task.cohort_weight, task.cohort_form)
    queries, members = (cohort.queries(unit), cohort.members(unit)) if cohort else (unit, unit)
    as_members = cohort.members if cohort else None
    seed = task.seed if task.order == "seeded" else None
    gallery = Gallery(method.distractors, task.sizes, seed, task.dropped, as_members)
    found = identification.identify(
        queries, members, labels, gallery, protocol=task.protocol, ties=task.ties, impostors=task.impostors,
        scan=task.scan, scale=cohort.scale if cohort else 1.0, ranks=task.ranks,
        progress=method.name if task.progress else None,
    )  # fmt: skip
    hit = found.ranks[-1] == 0
    tallies = {c.key: metrics.tally(hit, found.query, labels, c.probes) for c in columns if c.probes is not None}
    everyone = np.ones(len(labels), bool)
    sizes = [metrics.tally(ranks == 0, found.query, labels, everyone) for ranks in found.ranks]
    if not further or task.ranks.rank > 0:
        return Result(method, found, tallies, sizes, None, None, np.empty(0))
    verified, impostors = verify(method, queries, members, task)
    opened = None
    if task.open_set != "off" and len(np.unique(labels)) > 1:
        opened = open_sets(method, queries, unit, as_members or (lambda rows: rows), found.best_score, task)
    return Result(method, found, tallies, sizes, verified, opened, impostors)


def verify(method: Method, queries, members, task: Task) -> tuple[dict | None, np.ndarray]:
    """Verification's figures and its non-mated scores; no figures where no identity's images fit the sample.

    `sample` in the figures is None if all probes were compared, or says which were.
    """
    labels = method.probes.labels
    kept = verification.whole_identities(labels, verification.MOST_PROBES, task.seed)
    if len(kept) == 0:
        return None, np.empty(0)
    pairs = verification.probe_pairs(queries[kept], members[kept], labels[kept])
    figures = verification.verify(pairs, seed=task.seed, progress=method.name if task.progress else None)
    sample = None
    if len(kept) < len(labels):
        identities = [method.probes.name_of(label) for label in np.unique(labels[kept]).tolist()]
        sample = {"images": len(kept), "of": len(labels), "seed": task.seed, "identities": identities}
    return {**figures, "sample": sample}, pairs.nonmated


def open_sets(method: Method, queries, unit, as_members, best_distractor: np.ndarray, task: Task) -> dict:
    """Open-set figures under the cosine and under every rejection score: {name: figures}."""
    labels = method.probes.labels
    splits = open_set.split_galleries(labels, task.enrol, task.seed)
    distractor = best_distractor if task.open_set == "gallery" else None
    measured = {}
    for name in ("cosine", *task.rejections):
        acceptance = None if name == "cosine" else acceptance_score(method.probes, name)
        searches = [
            open_set.search_split(
                split, queries, unit, labels, as_members, distractor, task.ties == "pessimistic", acceptance
            )
            for split in splits
        ]
        measured[name] = open_set.measure(searches, seed=task.seed)
    return measured


def acceptance_score(probes: FeatureSet, name: str) -> np.ndarray:
    """A score by which probes are accepted as known (Q, higher accepts): `norm`, or a .npy beside the features.

    A name that begins with - is negated: for scores that are low for the known, such as reachability's distance.
    """
    sign, plain = (-1.0, name[1:]) if name.startswith("-") else (1.0, name)
    if plain == "norm":
        return sign * probes.norms()
    values = probes.column(plain)
    return sign * values
