"""Reports side by side: the methods of several reports of one task in one new report."""

from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.protocols.metrics import Bootstrap, Tallies
from megaface_eval.report.records import differences, gaps, state
from megaface_eval.report.stored import load_report

SAME = ("protocol", "ties", "impostors", "noise")


def save_tallies(tallies: list[dict[str, Tallies]]) -> dict[str, np.ndarray]:
    """Per-identity hits and trials of every method and column, as named arrays."""
    return {
        f"{i}/{key}/{part}": getattr(held, part)
        for i, columns in enumerate(tallies)
        for key, held in columns.items()
        for part in ("hits", "trials")
    }


def merge(paths: list[Path], command: str) -> tuple[dict, list[dict[str, Tallies]]]:
    """Contents and tallies of one report with the methods of all. Raises InputError unless they answer one question."""
    loaded = [load_report(path) for path in paths]
    first, _ = loaded[0]
    for path, (contents, _) in zip(paths[1:], loaded[1:], strict=True):
        for what, one, other in (
            ("gallery", first["gallery"], contents["gallery"]),
            ("probes", first["probes"], contents["probes"]),
            ("columns", first["columns"], contents["columns"]),
            *((key, first["settings"][key], contents["settings"][key]) for key in SAME),
        ):
            if one != other:
                raise InputError(f"{path}: {what} differ from those of {paths[0]}; expected reports of the same task")
    methods = [method for contents, _ in loaded for method in contents["methods"]]
    names = [method["name"] for method in methods]
    if len(set(names)) < len(names):
        # methods of one name are told apart by their reports
        names = [f"{path.name}: {m['name']}" for path, (c, _) in zip(paths, loaded, strict=True) for m in c["methods"]]
        methods = [{**method, "name": name} for method, name in zip(methods, names, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(f"methods {', '.join(names)}: a report is named twice; expected each once")
    tallies = [held for _, columns in loaded for held in columns]
    bootstrap = Bootstrap(len(next(iter(tallies[0].values())).hits), seed=first["settings"]["seed"])
    between = differences(names, tallies, first["columns"], bootstrap)
    within = gaps(names, tallies, first["columns"], bootstrap)
    contents = {**first, "methods": methods, "command": command, "differences": between, "gaps": within}
    return {**contents, "statements": [state(one) for one in [*between, *within]]}, tallies
