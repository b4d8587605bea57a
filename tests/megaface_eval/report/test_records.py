"""What a report is filled with."""

import numpy as np
import pytest

from megaface_eval.report.records import density
from megaface_eval.report.schema import HISTOGRAM


def test_a_density_is_the_share_of_scores_in_each_bin():
    share = density(np.array([0.005, 0.006, -2.0, 2.0]))
    assert sum(share) == pytest.approx(1)
    at = np.searchsorted(HISTOGRAM, 0.0051) - 1
    assert share[at] == 0.5
    assert (share[0], share[-1]) == (0.25, 0.25)
    assert sum(density(np.empty(0))) == 0
