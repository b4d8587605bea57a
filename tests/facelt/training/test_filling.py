"""When a memory is made anew; what passes over the set make is checked by whole runs (test_trainer, test_train)."""

import pytest

from facelt.config import FaceltConfig
from facelt.training import filling


@pytest.mark.parametrize("update, every, steps", [("refresh", 3, [3, 6]), ("mean", 3, []), ("refresh", 10, [])])
def test_a_memory_is_made_anew_every_so_many_steps_and_never_at_the_first(update, every, steps):
    knobs = {"centroid_update": update} | ({"refresh_every": every} if update == "refresh" else {})
    head = FaceltConfig.model_validate({"head": knobs}).head
    assert [step for step in range(8) if filling.refreshes(head, step)] == steps
