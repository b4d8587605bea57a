"""Evaluate feature sets on identification among distractors: `python -m megaface_eval.run --help`."""

import io
import sys
from typing import Any

import numpy as np

from megaface_eval.errors import InputError, answer
from megaface_eval.evaluate import Evaluation, evaluate
from megaface_eval.formats import devkit
from megaface_eval.options import build_parser, settings_of
from megaface_eval.processes import Processes, join, leave
from megaface_eval.report import compare, sheet, tables, values
from megaface_eval.report.plots import draw
from megaface_eval.report.records import report_of
from megaface_eval.report.schema import Difference, Report
from megaface_eval.report.stored import tallies_as_arrays
from megaface_eval.search.kept import Kept
from megaface_eval.settings import Output, Settings
from recordio_tools.command_line import complain


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    try:
        processes = join()
    except InputError as error:
        complain(error)
        return 2
    try:
        return answer(lambda: report_on(settings_of(options), command_of(arguments), processes), processes.rank > 0)
    finally:
        leave(processes)


def command_of(arguments: list[str]) -> str:
    """What to type to do the same again. Raises InputError for what cannot be quoted."""
    return sheet.command_of("megaface_eval.run", [a for a in arguments if "local_rank" not in a])


def report_on(settings: Settings, command: str, processes: Processes) -> None:
    """Evaluate, or compare, and write the report on rank 0."""
    tables.check_output(settings.output)
    if settings.sources.compared:
        report, tallies = compare.merge(settings.sources.compared, command)
        extras = {"tallies.npz": npz(tallies_as_arrays(tallies))}
    else:
        try:
            evaluation = evaluate(settings, processes)
        except KeyboardInterrupt as interrupt:
            if settings.output.kept.is_dir():
                raise KeyboardInterrupt(
                    f"interrupted; {settings.output.kept} keeps what was searched: give --resume to go on"
                ) from interrupt
            raise
        if processes.rank > 0:
            return
        for line in evaluation.warnings:
            print(f"warning: {line}", file=sys.stderr)
        report = report_of(evaluation, command)
        extras = further_files(evaluation, report)
    if processes.rank == 0:
        extras |= {"figures.csv": values.figures_csv(report).encode(), "curves.csv": values.curves_csv(report).encode()}
        tables.write_report(report, draw(report), settings.output, extras)
        if settings.output.resume:
            Kept(settings.output.kept).remove()
        print_result(report, settings.output)


def further_files(evaluation: Evaluation, report: Report) -> dict[str, bytes]:
    """What lies beside report.json for programs: file name to content."""
    files = {"tallies.npz": npz(tallies_as_arrays([result.tallies for result in evaluation.results]))}
    if evaluation.shots is not None:
        similarity = np.array(evaluation.shots.similarity)
        files["pseudo_shots.npz"] = npz({"similar": evaluation.shots.similar_Q, "similarity": similarity})
    if evaluation.settings.output.devkit_results:
        for result, shown in zip(evaluation.results, report.methods, strict=True):
            roc, found = shown.verification and shown.verification.roc, result.found
            curves = devkit.encode_curves((shown.cmc.rank, shown.cmc.recall), (roc.far, roc.tar) if roc else ([], []))
            matches = devkit.encode_matches(found.query, found.mate, found.ranks[-1])
            files |= devkit.result_files(shown.name, report.gallery.size, curves, matches)
    return files


def npz(arrays: dict[str, Any]) -> bytes:
    """Arrays as the bytes of an .npz file."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def print_result(report: Report, output: Output) -> None:
    """The table (or the JSON) on stdout, and where the report lies."""
    if output.json:
        print(report.to_json())
        return
    print(tables.markdown_table(tables.main_table(report, mark="")))
    for shown, line in zip([*report.differences, *report.gaps], report.statements, strict=True):
        if not isinstance(shown, Difference) or shown.column == "Full":  # the other columns' are in the report
            print(line)
    print(f"report: {output.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
