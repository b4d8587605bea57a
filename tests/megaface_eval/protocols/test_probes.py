"""Probes as queries and as members of a gallery."""

import numpy as np
from small_sets import unit_rows

from megaface_eval.protocols.cohort import Cohort
from megaface_eval.protocols.probes import Probes


def test_without_a_cohort_both_are_the_unit_rows():
    unit = unit_rows(np.random.default_rng(0), 5, 4)
    probes = Probes(unit, np.arange(5))
    assert probes.queries_QD is probes.members_QD is unit  # so that `identify` scores each pair once
    assert probes.scale == 1


def test_with_a_cohort_both_are_its_rows():
    rng = np.random.default_rng(0)
    unit, cohort = unit_rows(rng, 5, 4), Cohort(unit_rows(rng, 9, 4), 3)
    probes = Probes(unit, np.arange(5), cohort)
    np.testing.assert_array_equal(probes.queries_QD, cohort.queries(unit))
    np.testing.assert_array_equal(probes.members_QD, cohort.members(unit))
    assert probes.scale == cohort.scale
