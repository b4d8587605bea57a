"""Numbers as readers see them."""

import pytest

from megaface_eval.report.wording import percent, size_name


@pytest.mark.parametrize(
    "size, name", [(10, "10"), (1000, "1K"), (2500, "2.5K"), (1234, "1,234"), (10**6, "1M"), (10**5, "100K")]
)
def test_sizes_are_named_as_they_are_asked_for(size, name):
    assert size_name(size) == name


@pytest.mark.parametrize("share, said", [(0.12345, "12.35"), (1.0, "100.00"), (None, "–")])
def test_shares_are_per_cent(share, said):
    assert percent(share) == said
