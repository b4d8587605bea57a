"""A report folder, read back: its contents and tallies, or one line on why it is none."""

from pathlib import Path
from typing import Any

import numpy as np

from megaface_eval.command import read_json
from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import UNREADABLE
from megaface_eval.protocols.metrics import Tallies
from megaface_eval.protocols.open_set import FPIRS
from megaface_eval.protocols.verification import FARS
from megaface_eval.report.records import HISTOGRAM

NUMBER = (int, float)
RATE = (int, float, None)
COUNT = (int, None)
CURVE = {"rank": [int], "recall": [NUMBER]}
LEVEL = {"tar": RATE, "far": NUMBER, "low": RATE, "high": RATE}
VERIFICATION = {"eer": RATE, "tar_at_far": [LEVEL], "roc": {"far": [NUMBER], "tar": [NUMBER]}}
TPIR = {"fpir": NUMBER, "g1": RATE, "g2": RATE, "mean": RATE, "low": RATE, "high": RATE}
OPEN_SET = {"tpir_at_fpir": [TPIR], "curves": [{"fpir": [NUMBER], "tpir": [NUMBER]}]}
IMAGE = {"role": str, "row": int, "path": (str, None), "thumbnail": (str, None)}
MISS = {"identity": str, "rank": int, "mate_score": NUMBER, "distractor_score": NUMBER, "images": [IMAGE]}
SCORES = {key: [NUMBER] for key in ("edges", "mates", "impostors", "nearest")}
METHOD = {
    "name": str,
    "cells": {str: {"rate": RATE, "low": RATE, "high": RATE, "trials": COUNT, "probes": COUNT, "identities": COUNT}},
    "sizes": [{"gallery": int, "rate": RATE, "low": RATE, "high": RATE}],
    "cmc": CURVE,
    "verification": (VERIFICATION, None),
    "open_set": ({"cosine": OPEN_SET}, None),
    "scores": SCORES,
    "misses": [MISS],
}
SETTINGS = {"protocol": str, "ties": str, "impostors": str, "noise": str, "seed": int}
REPORT = {
    "format": int,
    "command": str,
    "versions": {str: str},
    "settings": SETTINGS,
    "gallery": {"size": int, "sizes": [int]},
    "probes": {"images": int, "identities": int},
    "columns": [{"key": str, "title": str, "group": str}],
    "groups": [{"title": str, "columns": int}],
    "methods": [METHOD],
    "conventions": [str],
}
FORMAT = 1


def misfit(value: Any, shape: Any, at: str = "") -> str | None:
    """Where a JSON value first departs from a shape, or None.

    A shape is a type, None, a tuple of shapes (any will do), [shape] for a list, {key: shape} for an object that has at
    least those keys, {str: shape} for one with any.
    """
    if isinstance(shape, tuple):
        found = [misfit(value, one, at) for one in shape]
        return None if None in found else max(found, key=len)
    if shape is None or isinstance(shape, type):
        fits = value is None if shape is None else type(value) is shape
        return None if fits else at or "the whole"
    if type(value) is not type(shape):
        return at or "the whole"
    if isinstance(shape, list):
        parts = ((f"{at}[{i}]", one, shape[0]) for i, one in enumerate(value))
    elif str in shape:
        parts = ((f"{at}.{key}", one, shape[str]) for key, one in value.items())
    else:
        parts = ((f"{at}.{key}", value.get(key), one) for key, one in shape.items())
    return next((found for where, one, its in parts if (found := misfit(one, its, where)) is not None), None)


def load_report(path: Path) -> tuple[dict, list[dict[str, Tallies]]]:
    """Contents and tallies of a report folder. Raises InputError for anything else."""
    if not (path / "report.json").is_file():
        raise InputError(f"{path}: not a report of this program (no report.json); expected its --output folder")
    contents = read_json(path / "report.json")
    wrong = misfit(contents, REPORT) or _contradiction(contents)
    if wrong is not None:
        raise InputError(f"{path}: not a report of this program ({wrong} in report.json); expected its --output folder")
    try:
        with np.load(path / "tallies.npz") as arrays:
            held = {name: np.asarray(arrays[name]) for name in arrays.files}
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: tallies.npz is not readable ({reason}); make the report again") from error
    tallies: list[dict[str, Tallies]] = [{} for _ in contents["methods"]]
    shape = (contents["probes"]["identities"],)
    for i, columns in enumerate(tallies):
        for key in (column["key"] for column in contents["columns"]):
            hits, trials = (held.get(f"{i}/{key}/{part}") for part in ("hits", "trials"))
            measured = contents["methods"][i]["cells"][key]["probes"] is not None
            if measured and not (_counts(hits, shape) and _counts(trials, shape) and (hits <= trials).all()):
                raise InputError(f"{path}: tallies.npz does not belong to report.json ({key}); make the report again")
            if measured:
                columns[key] = Tallies(hits, trials)
    return contents, tallies


def _counts(values: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    """Whether they are numbers of that shape, none below 0."""
    return values is not None and values.shape == shape and values.dtype.kind in "fiu" and bool((values >= 0).all())


def _contradiction(contents: dict) -> str | None:
    """The first thing that has the right shape and cannot be."""
    parts = (contents["format"] == FORMAT, contents["methods"], contents["columns"], contents["settings"]["seed"] >= 0)
    if not all(parts):
        return "format, methods, columns or seed"
    keys = {column["key"] for column in contents["columns"]}
    for method in contents["methods"]:
        if not keys <= method["cells"].keys():
            return "cells"
        curves = [method["cmc"]]
        if not (method["cmc"]["rank"] and method["sizes"]):
            return "cmc or sizes"
        curves += [method["verification"]["roc"]] if method["verification"] else []
        if method["verification"] and [one["far"] for one in method["verification"]["tar_at_far"]] != list(FARS):
            return "tar_at_far"
        for found in (method["open_set"] or {}).values():
            levels = None if misfit(found, OPEN_SET) else [one["fpir"] for one in found["tpir_at_fpir"]]
            if levels != list(FPIRS) or len(found["curves"]) != 2:
                return "open_set"
            curves += found["curves"]
        if any(len({len(part) for part in curve.values()}) > 1 for curve in curves):
            return "a curve's lengths"
        scores = method["scores"]
        bins = len(HISTOGRAM) - 1
        if len(scores["edges"]) != bins + 1 or any(
            len(scores[key]) != bins for key in ("mates", "impostors", "nearest")
        ):
            return "scores"
    return None
