"""report.json is written and read by one schema."""

import json
from pathlib import Path

import pytest
from small_sets import report_in

from megaface_eval.errors import InputError
from megaface_eval.report.schema import read_report

REPORTS = ("report-good", "together", "compared")


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_written_back_as_it_was(made, name):
    contents = report_in(made / name)
    assert json.loads(read_report(contents, made / name).to_json()) == contents


@pytest.mark.parametrize("name", REPORTS)
def test_what_another_version_wrote_is_kept_and_not_asked_for(made, name):
    contents = report_in(made / name)
    contents["later"] = {"a": [1, None]}
    contents["methods"][0]["cells"]["full"]["later"] = "x"
    for key in ("made", "differences", "gaps", "statements", "pseudo_shots"):
        del contents[key]
    for key in ("probes", "distractors", "cohort", "meta"):
        del contents["methods"][0][key]
    del contents["methods"][0]["verification"]["sample"]
    assert json.loads(read_report(contents, made / name).to_json()) == contents


@pytest.mark.parametrize(
    "at, to, found",
    [
        ((), [], "the whole in report.json is []"),
        (("format",), 2, "format in report.json is 2, expected 1"),
        (("methods", 0, "name"), 5, "methods[0].name in report.json is 5, expected a valid string"),
        (("probes", "images"), True, "probes.images in report.json is true, expected a valid integer"),
        (("gallery", "sizes", 1), "x", 'gallery.sizes[1] in report.json is "x", expected a valid integer'),
        (("methods", 0, "cells", "full", "rate"), 1e999, "is Infinity, expected a finite number"),
        (("methods", 0, "cells", "full"), {}, "methods[0].cells.full.low in report.json is missing"),
        (("methods", 0, "cells"), {}, "methods[0].cells lacks 'many', expected a cell for every column"),
        (("methods",), [], "methods in report.json is [], expected at least 1 item"),
        (("methods", 0, "open_set"), {}, "methods[0].open_set in report.json is {}, expected cosine"),
        (
            ("methods", 0, "verification", "tar_at_far"),
            [],
            "tar_at_far in report.json is [], expected one entry at each",
        ),
        (("methods", 0, "cmc", "recall"), [0.5] * 999, "'recall': 999}, expected one value of each"),
    ],
)
def test_a_refusal_names_the_place_what_was_found_and_what_was_expected(made, at, to, found):
    contents = {"": report_in(made / "together")}
    *path, last = ("", *at)
    part = contents
    for key in path:
        part = part[key]
    part[last] = to
    with pytest.raises(InputError) as refusal:
        read_report(contents[""], Path("reports/one"))
    said = str(refusal.value)
    assert said.startswith("reports/one: not a report of this program (")
    assert said.endswith("); expected its --output folder")
    assert found in said
    assert len(said) < 300
    assert "\n" not in said
