"""The command line of `python -m megaface_eval.run`, and the settings that it stands for."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megaface_eval.errors import InputError
from megaface_eval.features.gallery import parse_size
from megaface_eval.features.noise import MODES
from megaface_eval.protocols.cohort import FORMS, CohortRule
from megaface_eval.protocols.identification import IMPOSTORS, PROTOCOLS, TIES, Rules
from megaface_eval.protocols.open_set import GALLERIES, OpenSetRule
from megaface_eval.protocols.pseudo_shot import BOUNDS, SIMILARITY, ShotRule, parse_bounds
from megaface_eval.protocols.threshold import FMR, ErrorRule
from megaface_eval.search.choose import SEARCHES
from megaface_eval.settings import MethodPaths, NoiseLists, Output, Settings, Sources
from recordio_tools.command_line import Parser

EXAMPLE = """
examples:
  python -m megaface_eval.run --gallery 1M --probes runs/facescrub --distractors runs/megaface --output report
  python -m megaface_eval.run --gallery 10K --method plain=plain/probes,plain/distractors \\
      --method meta=meta/probes,meta/distractors --train arc/train --probes-recogniser arc/probes \\
      --subgroups gender.tsv --output report
  python -m megaface_eval.run --compare report1 report2 --output both
  python -m megaface_eval.run --gallery 100K --simulate        (no data needed; writes the folder report)

A feature set is a folder with features.npy (N×D), labels.npy (N) and, if known, names.txt, paths.txt and meta.json;
or one .npz with the same arrays.
"""

UNRECORDED = ("local_rank", "json", "force", "resume")  # change nothing that is found


def build_parser() -> argparse.ArgumentParser:
    """The parser of all options, grouped by what they decide."""
    parser = Parser(
        prog="python -m megaface_eval.run",
        description="Identify probes among distractors, exactly, and report it by pseudo-shots and sub-groups.",
        epilog=EXAMPLE,
    )
    _what(parser.add_argument_group("what is evaluated").add_argument)
    _how(parser.add_argument_group("conventions"))
    _out(parser.add_argument_group("output").add_argument)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed's launcher adds it
    return parser


def _what(add: Callable) -> None:
    add("--gallery", metavar="SIZE", default="1M", help="number of distractors: 10, 1K, 100K, 1M … (1M)")
    add("--probes", metavar="FEATURES", type=Path, help="probe images of one method, labelled by identity")
    add("--distractors", metavar="FEATURES", type=Path, help="images of nobody among the probes")
    add(
        "--method",
        metavar="NAME=PROBES,DISTRACTORS",
        action="append",
        default=[],
        help="a method to compare; give it once for each",
    )
    add(
        "--train",
        metavar="FEATURES",
        type=Path,
        help="training images under a recogniser: makes the pseudo-shot buckets",
    )
    add(
        "--probes-recogniser",
        metavar="FEATURES",
        type=Path,
        help="the probes under the same recogniser as --train (default: the one method's own probes)",
    )
    add("--mixed", action="store_true", help="compare features whose meta.json name different recognisers all the same")
    add("--subgroups", metavar="TSV", type=Path, help="identity name <tab> group; a column for each group")
    add("--partial", action="store_true", help="people whom --subgroups leaves out are in no group")
    add("--simulate", action="store_true", help="made-up von Mises–Fisher features instead of any data")
    add(
        "--mate-cosine",
        type=float,
        nargs="+",
        default=[0.25],
        metavar="C",
        help="difficulty of --simulate: mean cosine of two images of one person (0.25); a method for each",
    )


def _how(group) -> None:
    add, add_similarity = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="devkit",
        help="devkit: every ordered pair of one identity's probes; paper: each probe and its best mate",
    )
    add(
        "--ties",
        choices=TIES,
        default="devkit",
        help="devkit: only a higher score beats the mate; pessimistic: an equal one does too",
    )
    add(
        "--impostors",
        choices=IMPOSTORS,
        default="distractors",
        help="all: images of the other probe identities join the gallery",
    )
    add(
        "--shots",
        metavar="MANY,FEW,ONE",
        default=",".join(map(str, BOUNDS)),
        help="fewest similar training images of a many-, few- and one-shot probe (5,2,1)",
    )
    add_similarity("--similarity", type=float, metavar="C", help=f"similar: cosine strictly above it ({SIMILARITY})")
    add_similarity(
        "--similarity-quantile",
        type=float,
        metavar="Q",
        help="similar: above this quantile of probe-to-training cosines (0.7 is one recogniser's)",
    )
    add(
        "--order",
        choices=("file", "seeded"),
        default="file",
        help="which distractors the smaller galleries hold: the first ones, or a seeded choice",
    )
    add("--noise", choices=MODES, default="keep", help="what is done about listed images (keep)")
    add("--facescrub-noise", metavar="LIST", type=Path, help="noise list of the probes")
    add("--megaface-noise", metavar="LIST", type=Path, help="noise list of the distractors")
    add(
        "--open-set",
        choices=(*GALLERIES, "off"),
        default="enrolled",
        help="open-set galleries hold the enrolled probes, or the distractors too (enrolled)",
    )
    add("--enrol", type=int, default=1, metavar="N", help="images in an enrolled template (1)")
    add(
        "--rejection",
        metavar="NAME",
        action="append",
        default=[],
        help="also accept probes by `norm` or by a .npy beside their features (--rejection=-x.npy: low is known)",
    )
    add(
        "--quality",
        metavar="NAME",
        action="append",
        default=[],
        help="errors as the worst images by `norm` or a .npy beside the probes are rejected (-x.npy: low is good)",
    )
    add("--fairness", action="store_true", help="false matches and non-matches by sub-group, at one threshold")
    add("--fmr", type=float, metavar="F", help=f"share of non-mated pairs that this threshold accepts ({FMR:g})")
    add(
        "--cohort",
        metavar="FEATURES",
        type=Path,
        action="append",
        default=[],
        help="normalise scores by this feature set's nearest members; once for each method",
    )
    add("--cohort-k", type=int, default=20, metavar="K", help="nearest members that count (20)")
    add("--cohort-weight", type=float, default=0.5, metavar="W", help="share of their mean taken off (0.5)")
    add("--cohort-form", choices=FORMS, default="gallery", help="whose closeness is taken off (gallery)")
    add("--search", choices=SEARCHES, default="auto", help="how blocks are scanned (auto: the fastest); same ranks")
    add("--seed", type=int, default=0, help="of every random choice (0)")


def _out(add: Callable) -> None:
    add(
        "--output",
        metavar="REPORT",
        type=Path,
        default=Path("report"),
        help="folder for report.html, report.json, table.md and cmc.png (report)",
    )
    add("--compare", metavar="REPORT", type=Path, nargs="+", help="put earlier reports side by side instead")
    add("--devkit-results", action="store_true", help="also write the devkit's cmc_… and matches_….json")
    add("--probe-images", metavar="DIR", type=Path, help="where the probes' paths.txt starts, for thumbnails")
    add("--distractor-images", metavar="DIR", type=Path, help="the same for the distractors")
    add("--force", action="store_true", help="replace an existing report")
    add(
        "--resume",
        action="store_true",
        help="keep searches in REPORT.search until the report is there, and go on from what an interrupted run kept",
    )
    add("--json", action="store_true", help="print report.json instead of the table")


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the parsed options stand for. Raises InputError for what argparse cannot see."""
    gallery, bounds = parse_size(options.gallery), parse_bounds(options.shots)
    _check(options)
    quantile = options.similarity_quantile
    similarity = SIMILARITY if options.similarity is None else options.similarity
    open_set = OpenSetRule(gallery=options.open_set, enrol=options.enrol, rejections=tuple(options.rejection))
    return Settings(
        gallery_size=gallery,
        sources=_sources(options),
        rules=Rules(protocol=options.protocol, ties=options.ties, impostors=options.impostors),
        shots=ShotRule(bounds=bounds, similarity=similarity, quantile=quantile),
        cohort=CohortRule(k=options.cohort_k, weight=options.cohort_weight, form=options.cohort_form),
        open_set=None if options.open_set == "off" else open_set,
        errors=ErrorRule(
            fmr=FMR if options.fmr is None else options.fmr, quality=tuple(options.quality), fairness=options.fairness
        ),
        noise=NoiseLists(mode=options.noise, probes=options.facescrub_noise, distractors=options.megaface_noise),
        seeded=options.order == "seeded",
        seed=options.seed,
        search=options.search,
        output=Output(
            folder=options.output,
            force=options.force,
            devkit_results=options.devkit_results,
            json=options.json,
            resume=options.resume,
        ),
        recorded={**_plain(options), "gallery": gallery, "shots": list(bounds)},
    )


def _sources(options: argparse.Namespace) -> Sources:
    named = [parse_method(text) for text in options.method]
    if options.probes is not None:
        named = [("", options.probes, options.distractors)]
    cohorts = options.cohort or [None] * len(named)
    if len(cohorts) != len(named):
        raise InputError(f"{len(cohorts)} --cohort for {len(named)} methods; expected one for each, in the same order")
    return Sources(
        methods=tuple(
            MethodPaths(name=name, probes=probes, distractors=distractors, cohort=cohort)
            for (name, probes, distractors), cohort in zip(named, cohorts, strict=True)
        ),
        simulated=tuple(options.mate_cosine) if options.simulate else (),
        compared=tuple(options.compare or ()),
        mixed=options.mixed,
        train=options.train,
        recogniser=options.probes_recogniser,
        subgroups=options.subgroups,
        partial=options.partial,
        probe_images=options.probe_images,
        distractor_images=options.distractor_images,
    )


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON: paths as texts."""

    def plain(value):
        if isinstance(value, list):
            return [plain(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    return {key: plain(value) for key, value in vars(options).items() if key not in UNRECORDED}


def _check(options: argparse.Namespace) -> None:
    single = options.probes is not None or options.distractors is not None
    if (options.simulate, single, bool(options.method), bool(options.compare)).count(True) != 1:
        raise InputError(
            "give one of: --probes with --distractors (two feature sets), --method NAME=PROBES,DISTRACTORS …, "
            "--compare REPORT …, or --simulate, which needs no data"
        )
    names = ("--train", "--probes-recogniser", "--subgroups", "--cohort", "--probe-images")
    given = [name for name in names if getattr(options, name[2:].replace("-", "_"))]
    if given and (options.simulate or options.compare):
        mode = "--simulate" if options.simulate else "--compare"
        raise InputError(f"{given[0]} has no part in {mode}, which brings its own; leave one of them out")
    if options.resume and options.compare:
        raise InputError("--resume has no part in --compare, which searches nothing; leave one of them out")
    if single and (options.probes is None or options.distractors is None):
        raise InputError("--probes and --distractors belong together; one of them is missing")
    if options.partial and options.subgroups is None:
        raise InputError("--partial without --subgroups; it lets that file leave people out")
    if options.probes_recogniser is not None and options.train is None:
        raise InputError("--probes-recogniser without --train; buckets need the training features too")
    if options.train is not None and options.probes_recogniser is None and len(options.method) > 1:
        raise InputError(
            "--train with several methods needs --probes-recogniser: the probes under the recogniser of --train"
        )
    listed = options.facescrub_noise is not None or options.megaface_noise is not None
    if (options.noise == "keep") == listed:
        raise InputError("noise lists and --noise drop or insightface belong together; one of them is missing")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: expected a whole number from 0 up")
    if options.similarity is not None and not -1 <= options.similarity < 1:
        raise InputError(f"--similarity {options.similarity}: expected a cosine from -1 to below 1")
    for name in ("--probe-images", "--distractor-images"):
        folder = getattr(options, name[2:].replace("-", "_"))
        if folder is not None and not folder.is_dir():
            raise InputError(
                f"{name} {folder}: no such folder; expected the one that the paths in paths.txt start from"
            )
    _check_errors(options)
    if not math.isfinite(options.cohort_weight):
        raise InputError(f"--cohort-weight {options.cohort_weight}: expected a number")
    if options.enrol < 1:
        raise InputError(f"--enrol {options.enrol}: expected at least one image a template")
    quantile = options.similarity_quantile
    if quantile is not None and not 0 < quantile < 1:
        raise InputError(f"--similarity-quantile {quantile}: expected a value between 0 and 1")
    if (options.similarity, quantile) != (None, None) and options.train is None and not options.simulate:
        raise InputError("--similarity without --train; buckets need the training features")


def _check_errors(options: argparse.Namespace) -> None:
    wanted = [name for name, given in (("--quality", options.quality), ("--fairness", options.fairness)) if given]
    if wanted and options.compare:
        raise InputError(f"{wanted[0]} has no part in --compare, which measures nothing anew; leave one of them out")
    if options.fmr is not None and not wanted:
        raise InputError("--fmr without --quality or --fairness; it sets the threshold of these")
    if options.fmr is not None and not 0 < options.fmr < 1:
        raise InputError(f"--fmr {options.fmr:g}: expected a share of non-mated pairs between 0 and 1")
    if options.fairness and options.subgroups is None and not options.simulate:
        raise InputError("--fairness without --subgroups; give the file that names each identity's group")


def parse_method(text: str) -> tuple[str, Path, Path]:
    """Name, probes and distractors from NAME=PROBES,DISTRACTORS."""
    name, equals, sets = text.partition("=")
    parts = sets.split(",")
    if not (name and equals and len(parts) == 2 and all(parts)):
        raise InputError(f"--method {text!r}: expected NAME=PROBES,DISTRACTORS")
    return name, Path(parts[0]), Path(parts[1])
