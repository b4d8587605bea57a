"""When a stage is validated, and how much of the time that may take."""

import pytest

from facelt.config import StageConfig, ValidationConfig
from facelt.training.schedule import Schedule
from facelt.training.validating import Budget, is_due


@pytest.mark.parametrize("share, cost", [(0.05, 3.0), (0.2, 7.0), (0.5, 30.0)])
def test_validation_never_takes_more_than_its_share(share, cost):
    """A loop by the clock: an epoch of 10 s each, and a validation after it where the budget has room."""
    budget, elapsed, made = Budget(share), 0.0, 0
    for _ in range(200):
        elapsed += 10
        if budget.allows(elapsed, guess=2 * cost):
            elapsed, made = elapsed + cost, made + 1
            budget.took(cost)
        assert budget.spent <= share * elapsed + 1e-9
    assert made >= 0.9 * min(200, share * 2000 / (1 - share) / cost) - 1, "and not much less"


def test_without_a_limit_each_is_made_and_the_first_is_guessed():
    assert Budget(1).allows(0.1, 100)
    assert not Budget(0.5).allows(1, guess=10)
    assert Budget(0.5).allows(10, guess=10)


def test_a_validation_is_due_each_time_an_interval_has_gone_by():
    schedule = Schedule(StageConfig(epochs=4), images=30, global_batch=8)

    def due(**knobs) -> list[int]:
        return [done for done in range(1, 16) if is_due(ValidationConfig(**knobs), schedule, done)]

    assert due() == [4, 8, 12, 15]  # 30, 60, 90, 120 images of 8 a step
    assert due(every=2) == [8, 15]
    assert due(every=0.5) == [2, 4, 6, 8, 10, 12, 14, 15]
    assert due(every=6, unit="steps") == [6, 12]
