"""Every convention behind a report's figures, in a line each."""

from argparse import Namespace

import numpy as np

from .evaluate import Result
from .metrics import DRAWS
from .plots import size_name

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


def conventions_of(
    options: Namespace, similarity: float | None, sizes: list[int], probes: int, first: Result
) -> list[str]:
    """The conventions in force for one run."""
    alone = probes - len(np.unique(first.found.query))
    order = "in file order" if options.order == "file" else f"drawn with seed {options.seed}"
    lines = [
        "Score: cosine of the features as stored, summed in float64; ranks are exact and do not depend on block size, "
        "search engine or number of processes.",
        PROTOCOL[options.protocol],
        TIES[options.ties],
        IMPOSTORS[options.impostors],
        f"Gallery: nested sets of {', '.join(size_name(size) for size in sizes)} distractors, {order}.",
        f"Intervals: 95 %, {DRAWS} bootstrap resamples of identities, the same for every method and column.",
    ]
    if alone:
        lines.append(f"Probes without a mate: {alone}; they are in no figure.")
    if similarity is not None:
        rule = "the given threshold"
        if options.similarity_quantile is not None:
            rule = f"the {options.similarity_quantile:g} quantile of a seeded sample of probe-to-training cosines"
        lines.append(
            f"Pseudo-shots: training images with cosine strictly above {similarity:.4g} ({rule}) under the recogniser; "
            f"many, few and one begin at {', '.join(map(str, options.shots))}."
        )
    else:
        lines.append("Pseudo-shots: not measured (give --train and --probes-recogniser).")
    return lines
