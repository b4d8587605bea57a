"""Reports side by side: the methods of several reports of one task in one new report."""

from pathlib import Path

from megaface_eval.errors import InputError
from megaface_eval.protocols.metrics import Tallies
from megaface_eval.report.claims import error_gaps, held_together
from megaface_eval.report.schema import Report
from megaface_eval.report.stored import load_report

SAME = ("protocol", "ties", "impostors", "noise")


def merge(paths: tuple[Path, ...], command: str) -> tuple[Report, list[dict[str, Tallies]]]:
    """One report with the methods of all, and their tallies. Raises InputError unless they answer one question."""
    loaded = [load_report(path) for path in paths]
    reports = [report for report, _ in loaded]
    first = reports[0]
    for path, report in zip(paths, reports, strict=True):
        for what, one, other in (
            ("gallery", first.gallery, report.gallery),
            ("probes", first.probes, report.probes),
            ("columns", first.columns, report.columns),
            *((key, getattr(first.settings, key), getattr(report.settings, key)) for key in SAME),
        ):
            if one != other:
                raise InputError(f"{path}: {what} differ from those of {paths[0]}; expected reports of the same task")
    methods = [method for report in reports for method in report.methods]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        # methods of one name are told apart by their reports
        names = [f"{path.name}: {m.name}" for path, report in zip(paths, reports, strict=True) for m in report.methods]
        methods = [method.model_copy(update={"name": name}) for method, name in zip(methods, names, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(f"methods {', '.join(names)}: a report is named twice; expected each once")
    tallies = [held for _, columns in loaded for held in columns]
    if len({m.fairness.fmr for m in methods if m.fairness}) > 1:
        raise InputError(f"{paths[0]} and the others: errors by group at different --fmr; make them at the same one")
    claims = held_together(names, tallies, first.columns, error_gaps(methods))
    changed = {
        "methods": methods,
        "command": command,
        "differences": claims.differences,
        "gaps": claims.gaps,
        "statements": claims.statements,
    }
    return first.model_copy(update=changed), tallies
