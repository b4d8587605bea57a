"""Steps and learning rates by hand."""

import pytest

from facelt.config import FaceltConfig
from facelt.training.schedule import Schedule


def test_steps_and_rates_by_hand():
    stage = FaceltConfig.model_validate({"plain": {"epochs": 2.5, "decay_every": 1, "warmup": 0.5}}).plain
    schedule = Schedule(stage, images=100, global_batch=8)
    assert schedule.steps == 32  # 250 images in batches of 8: 31.25
    rate = lambda step: schedule.learning_rate(1.0, step)  # noqa: E731
    assert rate(0) == pytest.approx(0.08 / 0.5)
    assert rate(6) == 1.0  # 48 images seen, 56 with this step: past half an epoch
    assert rate(12) == 1.0  # 96 images seen
    assert rate(13) == pytest.approx(0.1)  # 104
