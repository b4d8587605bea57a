"""Evaluate feature sets on identification among distractors: `python -m megaface_eval.run --help`."""

import json
import shlex
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
import numpy as np

from . import evaluate, plots, report
from .conventions import conventions_of
from .errors import InputError
from .evaluate import Method, Task
from .features import FeatureSet, load_features
from .gallery import nested_sizes
from .metrics import Bootstrap
from .options import build_parser, check, parse_method
from .pseudo_shot import SIMILARITY, count_similar, quantile_threshold
from .ranks import Ranks, join, leave
from .scan import engine
from .simulate import make_scene
from .subgroups import subgroup_masks


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 the user's mistake (one line on stderr)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    ranks = Ranks()
    try:
        check(options)
        report.check_output(options.output, options.force)
        ranks = join()
        contents, figures, extras = evaluation(options, arguments, ranks)
        if ranks.rank == 0:
            report.write_report(contents, figures, options.output, extras)
            print_result(contents, options)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        leave(ranks)
    return 0


def evaluation(options: Namespace, arguments: list[str], ranks: Ranks) -> tuple[dict, dict, dict]:
    """The report's contents, its figures and its further files."""
    methods, train, recogniser, groups = open_sets(options)
    evaluate.check_methods(methods)
    probes = methods[0].probes
    counts, similarity = pseudo_shots(options, probes, train, recogniser, ranks)
    if options.subgroups is not None:
        groups = subgroup_masks(options.subgroups, probes)
    columns = evaluate.shot_columns(counts, options.shots, len(probes)) + evaluate.group_columns(groups)
    task = Task(nested_sizes(options.gallery), options.protocol, options.ties, options.impostors, options.order,
                options.seed, ranks=ranks, progress=True)  # fmt: skip
    results = [evaluate.run_method(method, columns, task) for method in methods]
    bootstrap = Bootstrap(len(np.unique(probes.labels)), seed=options.seed)
    records = [evaluate.method_record(result, columns, task, bootstrap) for result in results]
    between = evaluate.differences(results, columns, bootstrap)
    gaps = [gap for result in results for gap in evaluate.gaps(result, columns, bootstrap)]
    contents = {
        "format": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "megaface_eval.run", *arguments]),
        "versions": versions(),
        "settings": settings(options, similarity),
        "gallery": {"size": options.gallery, "sizes": task.sizes},
        "probes": {"images": len(probes), "identities": len(np.unique(probes.labels))},
        "columns": [{"key": c.key, "title": c.title, "group": c.group} for c in columns],
        "groups": headings(columns),
        "methods": records,
        "differences": between,
        "gaps": gaps,
        "statements": [evaluate.state(one) for one in [*between, *gaps]],
        "conventions": conventions_of(options, similarity, task.sizes, len(probes), results[0]),
        "pseudo_shots": None if counts is None else histogram(counts, similarity),
    }
    figures = {
        "cmc": plots.cmc_figure(records, options.gallery),
        "sizes": plots.sizes_figure(records),
        "bars": plots.bars_figure(records, contents["columns"]),
    }
    return contents, figures, {}


def open_sets(options: Namespace) -> tuple[list[Method], FeatureSet | None, FeatureSet | None, dict]:
    """The methods, the training set and the probes under its recogniser, and simulated sub-groups if any."""
    if options.simulate:
        scene = make_scene(options.gallery, options.mate_cosine, options.seed)
        return (
            [Method("simulated", scene.probes, scene.distractors)],
            scene.train,
            scene.recogniser_probes,
            scene.groups,
        )
    if options.method:
        named = [parse_method(text) for text in options.method]
    else:
        named = [(None, options.probes, options.distractors)]
    methods = []
    for name, probes_path, distractors_path in named:
        probes, distractors = load_features(probes_path), load_features(distractors_path)
        methods.append(Method(name or str(probes.meta.get("method") or probes_path.name), probes, distractors))
    train = load_features(options.train) if options.train else None
    recogniser = load_features(options.probes_recogniser) if options.probes_recogniser else None
    if train is not None and recogniser is None:
        recogniser = methods[0].probes
    return methods, train, recogniser, {}


def pseudo_shots(
    options: Namespace, probes: FeatureSet, train: FeatureSet | None, recogniser: FeatureSet | None, ranks: Ranks
) -> tuple[np.ndarray | None, float | None]:
    """Similar training images of each probe and the threshold they were counted at; None without a training set."""
    if train is None:
        return None, None
    if not np.array_equal(recogniser.labels, probes.labels):
        raise InputError(
            f"{recogniser.where}: labels do not match those of the probes in {probes.where}; "
            "expected the same probes in the same order under the recogniser of --train"
        )
    if options.similarity_quantile is not None:
        threshold = quantile_threshold(recogniser, train, options.similarity_quantile, options.seed)
    else:
        threshold = SIMILARITY if options.similarity is None else options.similarity
    return count_similar(recogniser, train, threshold, ranks=ranks, progress="pseudo-shots"), threshold


def histogram(counts: np.ndarray, similarity: float) -> dict:
    """How many probes have each number of similar training images, so that other bounds need no second search."""
    similar, probes = np.unique(counts, return_counts=True)
    return {"similarity": similarity, "similar": similar.tolist(), "probes": probes.tolist()}


def headings(columns: list) -> list[dict]:
    """Runs of columns under one heading."""
    runs: list[dict] = []
    for column in columns:
        if runs and runs[-1]["title"] == column.group:
            runs[-1]["columns"] += 1
        else:
            runs.append({"title": column.group, "columns": 1})
    return runs


def settings(options: Namespace, similarity: float | None) -> dict:
    """Every option as it was in force."""
    plain = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k not in ("local_rank", "json")
    }
    return {**plain, "shots": list(options.shots), "similarity": similarity}


def versions() -> dict[str, str]:
    """What computed the figures."""
    return {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "faiss": engine(),
        "matplotlib": matplotlib.__version__,
    }


def print_result(contents: dict, options: Namespace) -> None:
    """The table (or the JSON) on stdout, and where the report lies."""
    if options.json:
        print(json.dumps(contents, allow_nan=False))
        return
    print(report.markdown_table(report.table_rows(contents, mark="")))
    for line in contents["statements"]:
        print(line)
    print(f"report: {options.output / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
