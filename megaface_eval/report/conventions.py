"""Every convention behind a report's figures, in a line each."""

from argparse import Namespace

import numpy as np

from megaface_eval.evaluate import Result
from megaface_eval.inputs import Inputs
from megaface_eval.protocols.metrics import DRAWS
from megaface_eval.protocols.verification import MOST_PROBES
from megaface_eval.report.plots import size_name

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


def conventions_of(
    options: Namespace, inputs: Inputs, similarity: float | None, sizes: list[int], first: Result
) -> list[str]:
    """The conventions in force for one run."""
    probes = inputs.methods[0].probes
    alone = len(probes) - len(np.unique(first.found.query))
    order = "in file order" if options.order == "file" else f"drawn with seed {options.seed}"
    nested = ", ".join(size_name(size) for size in sizes)
    lines = [
        "Score: cosine of the features as stored, summed in float64; ranks are exact and do not depend on block size, "
        "search engine or number of processes.",
        PROTOCOL[options.protocol],
        TIES[options.ties],
        IMPOSTORS[options.impostors],
        f"Gallery: nested sets of {nested} distractors, {order}.",
        _shots(options, similarity),
        f"Intervals: 95 %, {DRAWS} bootstrap resamples of identities, the same for every method and column "
        "(fewer for verification and open set).",
        _verification(first.verification, len(np.unique(probes.labels))),
    ]
    if options.open_set != "off":
        lines.append(
            f"Open set: identities split into G1 and G2 with seed {options.seed}, {options.enrol} image(s) a template; "
            f"{OPEN_SET[options.open_set]}; threshold from non-mated probes' highest scores; TPIR needs rank 1 too."
        )
    if options.cohort:
        lines.append(
            f"Cohort: scores less {options.cohort_weight:g} × the mean cosine to the {options.cohort_k} nearest "
            f"members, {options.cohort_form} form."
        )
    if alone:
        lines.append(f"Probes without a mate: {alone}; they are in no figure.")
    lines.append(f"Noise: {options.noise}." + "".join(f" {what}." for what in inputs.removed))
    return lines


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


def _shots(options: Namespace, similarity: float | None) -> str:
    if similarity is None:
        return "Pseudo-shots: not measured (give --train and --probes-recogniser)."
    rule = "the given threshold"
    if options.similarity_quantile is not None:
        rule = f"the {options.similarity_quantile:g} quantile of a seeded sample of probe-to-training cosines"
    whose = "the recogniser" if options.probes_recogniser or options.simulate else "the method's own features"
    bounds = ", ".join(map(str, options.shots))
    return (
        f"Pseudo-shots: training images with cosine strictly above {similarity:.4g} ({rule}) under {whose}; "
        f"many, few and one begin at {bounds}."
    )
