"""Ranks stop and save after the same step, whoever was asked and however unlike their clocks."""

import time
from types import SimpleNamespace

import pytest
import torch
from ranks import run_ranks

from facelt.parallel import group
from facelt.training.ending import agreement
from facelt.training.ending.agreement import Agreement


def steps_to_a_stop(pace: float) -> list[int]:
    """The last rank is asked during step 3; ranks take unlike long."""
    stop = SimpleNamespace(asked=False)
    agreed = Agreement(stop, torch.device("cpu"), minutes=60)
    for step in range(500):
        time.sleep(pace * (1 + group.rank()))
        stop.asked |= step >= 3 and group.rank() == group.world_size() - 1
        if agreed.after_step(last=False).stop:
            return [step, agreed.every]
    return [-1, agreed.every]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_stop_after_the_same_step(ranks):
    ends = run_ranks(ranks, steps_to_a_stop, 0.002)
    assert all(end == ends[0] for end in ends)
    assert 3 <= ends[0][0] <= 6, "agreed after steps 0, 2, 6 at first"


def test_long_steps_are_agreed_on_each_and_short_ones_about_once_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(agreement.time, "monotonic", lambda: now[0])

    def intervals(pace: float) -> int:
        agreed = Agreement(SimpleNamespace(asked=False), torch.device("cpu"), minutes=60)
        for _ in range(2000):
            now[0] += pace
            agreed.after_step(last=False)
        return agreed.every

    assert [intervals(pace) for pace in (3.0, 0.26, 0.01)] == [1, 3, 100]


def due(minutes: float) -> list[bool]:
    agreed = Agreement(SimpleNamespace(asked=False), torch.device("cpu"), minutes)
    agreed.saved_at -= 100 if group.rank() == 1 else 0
    first = agreed.after_step(last=True).save
    agreed.saved()
    return [first, agreed.after_step(last=True).save]


def test_a_checkpoint_is_due_on_all_ranks_when_it_is_on_one():
    assert run_ranks(2, due, 1.0) == [[True, False]] * 2
