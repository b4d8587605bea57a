"""The command line becomes settings, once."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from megaface_eval.errors import InputError
from megaface_eval.options import build_parser, settings_of


def settings(*arguments):
    return settings_of(build_parser().parse_args(arguments))


def test_a_method_is_named_by_its_option_or_left_to_its_meta():
    (alone,) = settings("--probes", "p", "--distractors", "d").sources.methods
    assert (alone.name, alone.probes, alone.distractors, alone.cohort) == ("", Path("p"), Path("d"), None)
    methods = settings("--method", "a=p,d", "--method", "b=q,e", "--cohort", "x", "--cohort", "y").sources.methods
    assert [(m.name, m.probes, m.distractors, m.cohort) for m in methods] == [
        ("a", Path("p"), Path("d"), Path("x")), ("b", Path("q"), Path("e"), Path("y")),
    ]  # fmt: skip


def test_what_is_not_asked_for_has_no_settings():
    plain = settings("--simulate", "--open-set", "off")
    assert plain.open_set is None
    assert plain.sources.methods == plain.sources.compared == ()
    assert plain.sources.simulated == (0.25,)
    assert settings("--probes", "p", "--distractors", "d", "--mate-cosine", "0.5").sources.simulated == ()


def test_the_report_keeps_every_option_as_it_was_in_force():
    kept = settings("--probes", "p", "--distractors", "d", "--gallery", "2.5K", "--shots", "6,3,1", "--json").recorded
    assert (kept["gallery"], kept["shots"], kept["probes"]) == (2500, [6, 3, 1], "p")
    assert kept["output"] == "report"
    options = vars(build_parser().parse_args([]))
    assert kept.keys() == options.keys() - {"json", "force", "local_rank", "resume"}


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        settings("--simulate").seed = 1


@pytest.mark.parametrize("text", ["a", "a=", "=p,d", "a=p", "a=p,", "a=p,d,e"])
def test_a_method_without_its_two_sets_is_refused(text):
    with pytest.raises(InputError, match="expected NAME=PROBES,DISTRACTORS"):
        settings("--method", text)


def test_cohorts_are_one_for_each_method():
    with pytest.raises(InputError, match="1 --cohort for 2 methods"):
        settings("--method", "a=p,d", "--method", "b=q,e", "--cohort", "x")
