"""Methods that can stand side by side, and those that cannot."""

from dataclasses import replace

import numpy as np
import pytest
from small_sets import set_of, unit_rows

from megaface_eval.errors import InputError
from megaface_eval.loading import Likeness, Loaded, Method, check_likeness, check_methods, suspicions

LABELS = np.repeat(np.arange(3), 2)


def method(name="a", dimension=4, labels=LABELS, cohort=4, distractors=4):
    """A method of so many dimensions, in the probes, the cohort and the distractors."""
    rng = np.random.default_rng(0)
    sets = [set_of(unit_rows(rng, 9, size)) for size in (distractors, cohort)]
    return Method(name, set_of(unit_rows(rng, len(labels), dimension), labels), *sets)


def test_methods_of_the_same_probes_pass():
    check_methods([method("a"), method("b")])


@pytest.mark.parametrize(
    "second, problem",
    [
        (method("a"), "a name is used twice"),
        (method("b", distractors=5), "has 4 dimensions and set 5"),
        (method("b", cohort=6), "has 4 dimensions and set 6"),
        (method("b", labels=LABELS[::-1].copy()), "labels do not match"),
        (method("b", labels=LABELS[:4]), "has 4 probes"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(second, problem):
    with pytest.raises(InputError, match=problem):
        check_methods([method("a"), second])


def loaded(probes=None, distractors=None, train=None):
    """One method and a training set of metas given."""
    rng = np.random.default_rng(1)
    sets = [set_of(unit_rows(rng, 9, 4), where=where) for where in ("d", "t")]
    sets = [replace(one, meta=meta or {}) for one, meta in zip(sets, (distractors, train), strict=True)]
    of = replace(set_of(unit_rows(rng, 6, 4), LABELS, "p"), meta=probes or {})
    return Loaded(methods=[Method("m", of, sets[0])], likeness=Likeness(of, sets[1]))


@pytest.mark.parametrize(
    "metas, problem",
    [
        (
            ({"embedding": "meta"}, {"embedding": "direct"}),
            r"p has embedding 'meta' in its meta.json and d 'direct'.*--mixed",
        ),
        (({"checkpoint": "a"}, {"checkpoint": "b"}), "checkpoint 'a'"),
        (({"step": 1}, {}, {"step": 2}), "p has step 1 .* and t 2"),
    ],
)
def test_features_of_different_recognisers_are_refused_unless_mixed(metas, problem):
    with pytest.raises(InputError, match=problem):
        check_likeness(loaded(*metas))
    check_likeness(loaded(*metas), mixed=True)


def test_what_one_meta_does_not_say_is_no_difference():
    check_likeness(loaded({"recogniser": "onnx", "data": "x"}, {"data": "y"}, {"recogniser": "onnx"}))


def test_collapsed_features_are_answered():
    alike = set_of(np.ones((6, 4)) * np.arange(1, 7)[:, None], LABELS, "p")
    with pytest.raises(InputError, match="p and d: features have collapsed"):
        check_likeness(Loaded(methods=[Method("m", alike, set_of(np.ones((3, 4)), where="d"))]))
    check_likeness(Loaded(methods=[Method("m", alike, set_of(unit_rows(np.random.default_rng(0), 3, 4)))]))


def test_what_may_be_mixed_up_is_told():
    good = loaded()
    assert not list(suspicions(good))
    (method,) = good.methods
    (said,) = suspicions(replace(good, likeness=Likeness(method.probes, method.probes)))
    assert said.startswith("m: --train and the probes are the same features")
    (said,) = suspicions(replace(good, methods=[replace(method, distractors=method.probes)]))
    assert said == "m: probes and distractors are the same features"
    people = set_of(unit_rows(np.random.default_rng(2), 20, 4), np.arange(20) // 4)
    lone = set_of(unit_rows(np.random.default_rng(3), 20, 4), np.arange(20) % 19)
    (said,) = suspicions(Loaded(methods=[Method("m", lone, people)]))
    assert "swapped?" in said
    (said,) = suspicions(Loaded(methods=good.methods, likeness=Likeness(people, people)))
    assert said.startswith("--train and --probes-recogniser are the same")
