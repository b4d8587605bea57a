"""Evaluate feature sets on identification among distractors: `python -m megaface_eval.run --help`."""

import io
import json
import shlex
import sys
from argparse import Namespace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np

from megaface_eval import evaluate
from megaface_eval.command import answer, refuse
from megaface_eval.errors import InputError
from megaface_eval.evaluate import Task
from megaface_eval.features.gallery import nested_sizes
from megaface_eval.formats import devkit
from megaface_eval.inputs import open_inputs, pseudo_shots
from megaface_eval.options import build_parser, check
from megaface_eval.processes import Ranks, join, leave
from megaface_eval.protocols.metrics import Bootstrap
from megaface_eval.report import compare, records, tables
from megaface_eval.report.conventions import conventions_of
from megaface_eval.report.figures import draw
from megaface_eval.search.choose import choose_scan
from megaface_eval.search.faiss_scan import engine


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    try:
        ranks = join()
    except InputError as error:
        return refuse(error)
    try:
        return answer(partial(report_on, options, arguments, ranks), silent=ranks.rank > 0)
    finally:
        leave(ranks)


def report_on(options: Namespace, arguments: list[str], ranks: Ranks) -> None:
    """Evaluate, or compare, and write the report."""
    check(options)
    command = shlex.join(["python", "-m", "megaface_eval.run", *(a for a in arguments if "local_rank" not in a)])
    if not command.isascii() and command != command.encode(errors="replace").decode():
        raise InputError("a name on the command line is not UTF-8; a report could not quote it: rename it")
    tables.check_output(options.output, options.force)
    if options.compare:
        contents, tallies = compare.merge(options.compare, command)
        extras = {"tallies.npz": npz(compare.save_tallies(tallies))}
    else:
        contents, extras = evaluation(options, command, ranks)
    if ranks.rank == 0:
        tables.write_report(contents, draw(contents), options.output, extras)
        print_result(contents, options)


def evaluation(options: Namespace, command: str, ranks: Ranks) -> tuple[dict, dict[str, bytes]]:
    """The report's contents, and its further files."""
    inputs = open_inputs(options)
    probes = inputs.methods[0].probes
    scan, search_note = choose_scan(options.search, probes.dimension, len(probes) * options.gallery, ranks)
    counts, similarity = pseudo_shots(options, inputs, scan, ranks)
    columns = evaluate.shot_columns(counts, options.shots, len(probes)) + evaluate.group_columns(inputs.groups)
    task = Task(
        nested_sizes(options.gallery), options.protocol, options.ties, options.impostors, options.order, options.seed,
        scan, inputs.dropped, options.cohort_k, options.cohort_weight, options.cohort_form, options.open_set,
        options.enrol, tuple(options.rejection), ranks, progress=True,
    )  # fmt: skip
    results = [evaluate.run_method(method, columns, task, further=True) for method in inputs.methods]
    if ranks.rank > 0:
        return {}, {}
    bootstrap = Bootstrap(len(np.unique(probes.labels)), seed=options.seed)
    images = (options.probe_images, options.distractor_images)
    heads = [{"key": c.key, "title": c.title, "group": c.group} for c in columns]
    names, tallies = [m.name for m in inputs.methods], [result.tallies for result in results]
    between, within = (part(names, tallies, heads, bootstrap) for part in (records.differences, records.gaps))
    contents = {
        "format": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(search_note, ranks),
        "settings": settings(options, similarity),
        "gallery": {"size": options.gallery, "sizes": task.sizes},
        "probes": {"images": len(probes), "identities": len(np.unique(probes.labels))},
        "columns": heads,
        "groups": headings(heads),
        "methods": [records.method_record(result, columns, task, bootstrap, images) for result in results],
        "differences": between,
        "gaps": within,
        "statements": [records.state(one) for one in [*between, *within]],
        "conventions": conventions_of(options, inputs, similarity, task.sizes, results[0]),
        "pseudo_shots": None if counts is None else histogram(counts, similarity),
    }
    extras = {"tallies.npz": npz(compare.save_tallies(tallies))}
    if counts is not None:
        extras["pseudo_shots.npz"] = npz({"similar": counts, "similarity": np.float64(similarity)})
    if options.devkit_results:
        extras |= devkit_files(results, contents)
    return contents, extras


def devkit_files(results: list[evaluate.Result], contents: dict) -> dict[str, bytes]:
    """Every method's results in the devkit's own layout."""
    files: dict[str, bytes] = {}
    for result, record in zip(results, contents["methods"], strict=True):
        found, verified = result.found, record["verification"]
        files |= devkit.result_files(
            record["name"], contents["gallery"]["size"], found.query, found.mate, found.ranks[-1],
            record["cmc"], verified["roc"] if verified else {"far": [], "tar": []},
        )  # fmt: skip
    return files


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an .npz file."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def histogram(counts: np.ndarray, similarity: float) -> dict:
    """How many probes have each number of similar training images, so that other bounds need no second search."""
    similar, probes = np.unique(counts, return_counts=True)
    return {"similarity": similarity, "similar": similar.tolist(), "probes": probes.tolist()}


def headings(columns: list[dict]) -> list[dict]:
    """Runs of columns under one heading."""
    runs: list[dict] = []
    for column in columns:
        if runs and runs[-1]["title"] == column["group"]:
            runs[-1]["columns"] += 1
        else:
            runs.append({"title": column["group"], "columns": 1})
    return runs


def settings(options: Namespace, similarity: float | None) -> dict:
    """Every option as it was in force."""

    def plain(value):
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    kept = {key: plain(value) for key, value in vars(options).items() if key not in ("local_rank", "json", "force")}
    return {**kept, "similarity": similarity}


def versions(search_note: str, ranks: Ranks) -> dict[str, str]:
    """What computed the figures."""
    return {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "faiss": engine(),
        "matplotlib": matplotlib.__version__,
        "search": search_note,
        "processes": str(ranks.size),
    }


def print_result(contents: dict, options: Namespace) -> None:
    """The table (or the JSON) on stdout, and where the report lies."""
    if options.json:
        print(json.dumps(contents, allow_nan=False))
        return
    print(tables.markdown_table(tables.table_rows(contents, mark="")))
    for record, line in zip([*contents["differences"], *contents["gaps"]], contents["statements"], strict=True):
        if record.get("column", "Full") == "Full":  # the other columns' are in the report
            print(line)
    print(f"report: {options.output / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
