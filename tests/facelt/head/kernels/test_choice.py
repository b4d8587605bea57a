"""Which of the two a run takes, and what it says; heads by kernels are the dense heads, on any number of ranks."""

import builtins
from typing import Any

import pytest
import torch
from head_cases import CASES, PLAIN_CASES, assert_dense, compare, compare_plain, expected
from head_cases import sharded as sharded_head
from kernel_cases import DEVICE

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.blocked import Kernels
from facelt.head.heads import MetaHead
from facelt.head.kernels import choice, self_check
from facelt.head.kernels.self_check import TORCH, Problem
from facelt.parallel import group
from facelt.parallel.partition import Partition

PROBLEM = Problem(6, 50, 8)
CARD = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("K, preset, near, knobs", CASES)
def test_a_head_by_kernels_is_the_dense_head(K, preset, near, knobs):
    for block in (3, 4096):
        got = sharded_head(K, preset, near, block, knobs, 1, str(DEVICE), 96, True)
        assert_dense([{n: _on_host(value) for n, value in got.items()}], expected(K, preset, near, knobs))


def _on_host(value: Any) -> Any:
    return value if isinstance(value, dict) else value.detach().cpu().numpy()


# Ranks of the tests are on the CPU, where kernels run in the interpreter, which is for the whole of a run of tests.
interpreted = pytest.mark.skipif(DEVICE.type == "cuda", reason="here kernels are compiled for the card")


@interpreted
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", [0, 6, 7, 8])
def test_ranks_put_their_parts_together_as_those_of_blocks(ranks, case):
    compare(ranks, *CASES[case], kernels=True)


@interpreted
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("preset", ["released", "cosine"])
def test_of_a_sample_of_the_classes(ranks, preset):
    compare(ranks, 13, preset, True, {}, 0.3, kernels=True)


@interpreted
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("K, knobs", PLAIN_CASES[:7])
def test_a_plain_head_by_kernels_is_the_dense_one(ranks, K, knobs):
    compare_plain(ranks, K, knobs, kernels=True)


@interpreted
@pytest.mark.parametrize("preset", ["released", "cosine"])
def test_a_head_is_served_in_all_that_has_a_class_axis(preset):
    config = FaceltConfig.model_validate({"embedding_size": 8, "preset": preset})
    head = MetaHead(config, Partition(20))
    choice.serve(head, "triton", DEVICE, 6)
    assert head.classifier.kernels == head.memory.kernels == choice.load()
    choice.serve(head, config.head.kernels, DEVICE, 6)
    assert head.classifier.kernels is head.memory.kernels is None


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(group, "say", lines.append)
    return lines


@pytest.fixture
def _card(monkeypatch):
    """One that answers on the device of the tests, where kernels take as long as products but for the read: twice."""
    check = self_check.fault
    monkeypatch.setattr(self_check, "fault", lambda kernels, _, problem: check(kernels, DEVICE, problem))
    monkeypatch.setattr(self_check, "seconds", lambda kernels, *_: (1.0, 1.0 if kernels is TORCH else 2.0))


def test_on_a_cpu_torch_serves_unless_the_interpreter_is_asked_for(monkeypatch, said):
    cpu = torch.device("cpu")
    assert choice.choose("auto", cpu, PROBLEM) is None
    assert choice.choose("torch", CARD, PROBLEM) is None
    monkeypatch.setattr(choice, "interpreted", lambda: False)
    with pytest.raises(UserError, match="TRITON_INTERPRET=1") as refused:
        choice.choose("triton", cpu, PROBLEM)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(choice, "interpreted", lambda: True)
    if DEVICE.type == cpu.type:
        assert choice.choose("triton", cpu, PROBLEM) == choice.load()
    assert not said


@pytest.mark.usefixtures("_card")
def test_on_a_card_each_operation_is_the_faster_unless_the_knob_insists(said):
    ours = choice.load()
    assert ours is not None
    assert choice.choose("auto", CARD, PROBLEM) == Kernels(ours.scores, TORCH.read)
    assert choice.choose("triton", CARD, PROBLEM) == ours
    assert said[0].startswith("head.kernels: scores by triton")
    assert "read by torch, Triton's kernels taking 2.00 x the time of torch's products" in said[0]
    assert "read by triton" in said[1]


@pytest.mark.usefixtures("_card")
@pytest.mark.parametrize("knob", ["auto", "triton"])
def test_kernels_that_disagree_or_fail_are_not_used_with_one_line_said(knob, monkeypatch, said):
    def wrong(*args: Any) -> Any:
        top_G, sum_G, own = TORCH.scores(*args)
        return top_G, sum_G * 1.01, own

    def broken(*_: Any) -> Any:
        raise RuntimeError("no such\ninstruction")

    for kernels in (Kernels(wrong, TORCH.read), Kernels(TORCH.scores, broken)):
        monkeypatch.setattr(choice, "load", lambda kernels=kernels: kernels)
        assert choice.choose(knob, CARD, PROBLEM) is None
    assert said[0].startswith("warning: head.kernels")
    assert "log of sum" in said[0]
    assert "RuntimeError: no such instruction" in said[1]


def test_without_triton(monkeypatch, said):
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("facelt.head.kernels.") and name.rpartition(".")[2] in ("cross_entropy", "read", "tiles"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert choice.choose("auto", CARD, PROBLEM) is None
    assert said == []
    with pytest.raises(UserError, match="triton is not installed"):
        choice.choose("triton", CARD, PROBLEM)
