"""Requests to stop."""

import signal

import pytest
import torch

from facelt.telemetry import StopRequest


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(StopRequest, "asked", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_that_comes_between_two_stages_stops_the_second(number):
    first = StopRequest()
    assert not first.agreed(torch.device("cpu"))
    signal.raise_signal(number)
    assert first.agreed(torch.device("cpu"))
    assert StopRequest().agreed(torch.device("cpu"))
