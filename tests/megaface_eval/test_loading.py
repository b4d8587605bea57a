"""Methods that can stand side by side, and those that cannot."""

import numpy as np
import pytest
from small_sets import set_of, unit_rows

from megaface_eval.errors import InputError
from megaface_eval.loading import Method, check_methods

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
