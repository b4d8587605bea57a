"""A report is read back as it was written, and whatever is not one is refused in one line."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.report import compare
from megaface_eval.report.stored import load_report
from megaface_eval.report.tables import to_html, to_latex, to_markdown
from megaface_eval.run import main


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made / "report-good", tmp_path / "one")
    return tmp_path / "one"


def leaves(value, at=()):
    """The path of every value within a value, itself included."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from leaves(one, (*at, key))


def changed(contents, at, to):
    """A copy with one value changed, or left out where `to` is ..."""
    copy = json.loads(json.dumps(contents))
    if not at:
        return to
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = to
    return copy


@pytest.mark.parametrize("seed", range(3))
def test_a_report_with_anything_changed_is_refused_or_drawn(copied, capsys, seed):
    """Never a traceback: one line and exit 2, or a whole report, for a value of any type in any place."""
    contents = json.loads((copied / "report.json").read_text())
    rng = np.random.default_rng(seed)
    places = [at for at in leaves(contents) if at]
    short = [at for at in places if len(at) < 5]
    values = [None, "x", -1, 0, 1e300, [], {}, [[]], True, ...]
    refused = 0
    for i in range(60):
        pool = short if i % 2 else places
        at, to = pool[rng.integers(len(pool))], values[rng.integers(len(values))]
        (copied / "report.json").write_text(json.dumps(changed(contents, at, to)))
        try:
            read, _ = compare.merge((copied,), "command")
        except InputError:
            refused += 1
        else:
            for write in (to_markdown, to_latex, partial(to_html, figures=[])):
                assert write(read)
    assert refused > 15


@pytest.mark.parametrize(
    "at, to, problem",
    [
        (("format",), 2, "format"),
        (("methods",), [], "methods in report.json is "),
        (("methods", 0, "cells"), {}, "cells"),
        (("methods", 0, "cmc", "rank"), [], "cmc"),
        (("methods", 0, "cmc", "recall"), [0.5] * 999, "lengths"),
        (("methods", 0, "scores", "mates"), [0.5], "scores"),
        (("methods", 0, "verification", "tar_at_far"), [], "tar_at_far"),
        (("methods", 0, "open_set", "cosine", "curves"), [], "open_set"),
        (("methods", 0, "name"), 5, r"methods\[0\].name"),
        (("probes", "identities"), 7, "does not belong"),
        (("settings", "seed"), -1, "seed"),
    ],
)
def test_what_cannot_be_is_refused_on_the_command_line(copied, tmp_path, capsys, at, to, problem):
    contents = json.loads((copied / "report.json").read_text())
    (copied / "report.json").write_text(json.dumps(changed(contents, at, to)))
    with pytest.raises(InputError, match=problem):
        load_report(copied)
    capsys.readouterr()
    assert main(["--compare", str(copied), "--output", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 90])
def test_tallies_that_are_no_npz_are_refused(copied, content):
    (copied / "tallies.npz").write_bytes(content)
    with pytest.raises(InputError, match="tallies"):
        load_report(copied)


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x - 99, lambda x: x.astype("U3"), lambda x: x * np.nan])
def test_tallies_that_do_not_belong_are_refused(copied, change):
    with np.load(copied / "tallies.npz") as arrays:
        held = dict(arrays)
    held["0/full/hits"] = change(held["0/full/hits"])
    np.savez(copied / "tallies.npz", **held)
    with pytest.raises(InputError, match=r"does not belong|not readable"):
        load_report(copied)
