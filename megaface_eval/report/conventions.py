"""Every convention behind a report's figures, in a line each."""

import numpy as np

from megaface_eval.evaluate import Evaluation
from megaface_eval.protocols.metrics import FEWEST
from megaface_eval.protocols.verification import MOST_PROBES
from megaface_eval.report.claims import too_small
from megaface_eval.report.schema import Fairness
from megaface_eval.report.wording import size_name
from megaface_eval.settings import Settings

NAMED = 8  # identities of a sample, before the list is cut short

PROTOCOL = {
    "devkit": "Protocol devkit: every ordered pair of one identity's probes is a trial; the first is the query, "
    "the second alone joins the distractors. Rates are over pairs.",
    "paper": "Protocol paper: each probe is a trial, found if its best mate scores above every distractor.",
}
TIES = {
    "devkit": "Ties: a distractor beats the mate only by scoring strictly above it.",
    "pessimistic": "Ties: a distractor that scores exactly as the mate does beats it too.",
}
IMPOSTORS = {
    "distractors": "Impostors: the gallery holds the distractors and the query's mate, nobody else.",
    "all": "Impostors: the images of all other probe identities join the distractors, at every gallery size.",
}
OPEN_SET = {
    "enrolled": "galleries hold the enrolled probes alone",
    "gallery": "galleries hold the enrolled probes and all distractors",
}


def conventions_of(evaluation: Evaluation) -> list[str]:
    """The conventions in force for one run."""
    settings, probes, first = evaluation.settings, evaluation.loaded.probes, evaluation.results[0]
    rules, cohort, open_set = settings.rules, settings.cohort, settings.open_set
    alone = len(probes) - len(np.unique(first.found.query))
    order = f"drawn with seed {settings.seed}" if settings.seeded else "in file order"
    nested = ", ".join(size_name(size) for size in settings.sizes)
    lines = [
        "Score: cosine of the features as stored, summed in float64; ranks are exact and do not depend on block size, "
        "search engine or number of processes.",
        PROTOCOL[rules.protocol],
        TIES[rules.ties] + " " + _ties(evaluation),
        IMPOSTORS[rules.impostors],
        f"Gallery: nested sets of {nested} distractors, {order}.",
        _shots(settings, evaluation.shots and evaluation.shots.similarity),
        "Intervals: 95 %, over identities: Wilson's of as many trials as vary alike, with Student's t; none below "
        f"{FEWEST:g} identities of equal weight. What is called outside chance, among all comparisons of a report, is "
        "a false alarm in 5 % of reports at most (Holm).",
        _verification(first.verification, len(np.unique(probes.labels))),
    ]
    if open_set is not None:
        lines.append(
            f"Open set: identities split into G1 and G2 with seed {settings.seed}, {open_set.enrol} image(s) a "
            f"template; {OPEN_SET[open_set.gallery]}; threshold from non-mated probes' highest scores; TPIR needs rank "
            "1 too."
        )
    lines += _one_threshold(evaluation)
    if first.method.cohort is not None:
        lines.append(
            f"Cohort: scores less {cohort.weight:g} × the mean cosine to the {cohort.k} nearest members, "
            f"{cohort.form} form."
        )
    if alone:
        lines.append(f"Probes without a mate: {alone}; they are in no figure.")
    lines.append(f"Noise: {settings.noise.mode}." + "".join(f" {what}." for what in evaluation.loaded.removed))
    return lines + [f"Warning: {line}." for line in evaluation.warnings]


def _ties(evaluation: Evaluation) -> str:
    """In how many trials that mattered."""
    told = [f"{r.found.tied.sum():,} of {len(r.found.tied):,} ({r.method.name})" for r in evaluation.results]
    return f"Trials in which one scores exactly so: {', '.join(told)}."


def _verification(figures: dict | None, identities: int) -> str:
    if figures is None:
        return f"Verification: not measured; every identity has more than {MOST_PROBES:,} images."
    sample, pairs = figures["sample"], "all unordered pairs of probes"
    if sample is not None:
        named = ", ".join(sample["identities"][:NAMED]) + (", …" if len(sample["identities"]) > NAMED else "")
        pairs = (
            f"all unordered pairs of a sample, {sample['images']:,} of {sample['of']:,} probes: every image of "
            f"{len(sample['identities']):,} of {identities:,} identities drawn with seed {sample['seed']} ({named}; "
            "report.json names all)"
        )
    return (
        f"Verification: {pairs}; accepted if the score reaches the threshold; TAR at the lowest threshold whose FAR is "
        "not above the one named; – where fewer than 1/FAR non-mated pairs exist. EER: the lowest rate that both "
        "errors stay within at one threshold."
    )


def _one_threshold(evaluation: Evaluation) -> list[str]:
    """Of errors at one threshold: by group, and as images of worst quality are rejected."""
    rule, lines = evaluation.settings.errors, []
    if rule.quality:
        lines.append(
            f"Quality: the worst images by {', '.join(rule.quality)} are rejected first, images of equal quality "
            "together, at most the share named; a trial goes with either of its images; the threshold stays that of "
            f"all non-mated pairs at FMR {rule.fmr:g}. Mean: the area from 0 to 20 % rejected, over 20 %."
        )
    if rule.fairness:
        lines.append(
            f"Fairness: one threshold, at FMR {rule.fmr:g} over all non-mated pairs; false matches are between two "
            "people of the group, false non-matches between images of its members; the first sub-group of an "
            f"attribute is held against each other one, if both have {FEWEST:g} identities of equal weight or more."
        )
        for result in evaluation.results:
            small = too_small(Fairness(**result.fairness)) if result.fairness else []
            if small:
                lines.append(f"Not compared, for too few identities ({result.method.name}): {', '.join(small)}.")
    return lines


def _shots(settings: Settings, similarity: float | None) -> str:
    if similarity is None:
        return "Pseudo-shots: not measured (give --train and --probes-recogniser)."
    rule = "the given threshold"
    if settings.shots.quantile is not None:
        rule = f"the {settings.shots.quantile:g} quantile of a seeded sample of probe-to-training cosines"
    own = settings.sources.recogniser is None and not settings.sources.simulated
    whose = "the method's own features" if own else "the recogniser"
    bounds = ", ".join(map(str, settings.shots.bounds))
    return (
        f"Pseudo-shots: training images with cosine strictly above {similarity:.4g} ({rule}) under {whose}; "
        f"many, few and one begin at {bounds}."
    )
