"""Values shared between ranks, and a mistake of one rank that becomes all ranks' at once."""

import os

import pytest
from ranks import run_ranks

from facelt.errors import UserError
from facelt.parallel import group


def shared() -> dict:
    return {"value": group.share({"rank": group.rank()}), "error": group.first_error(None)}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_rank_0s_value_is_everyones(ranks):
    assert run_ranks(ranks, shared) == [{"value": {"rank": 0}, "error": None}] * ranks


def careful(bad: int) -> str:
    def work(base: int, *, more: int) -> int:
        if group.rank() == bad:
            raise UserError(f"rank {bad} met a mistake")
        return base + more + group.rank()

    try:
        return str(group.together(work, 10, more=5))
    except UserError as mistake:
        return str(mistake)


@pytest.mark.parametrize("ranks", [1, 3])
def test_together_gives_each_rank_its_own_answer(ranks):
    assert run_ranks(ranks, careful, -1) == [str(15 + rank) for rank in range(ranks)]


@pytest.mark.parametrize("ranks, bad", [(1, 0), (3, 0), (3, 2)])
def test_a_mistake_of_one_rank_is_raised_on_all(ranks, bad):
    assert run_ranks(ranks, careful, bad) == [f"rank {bad} met a mistake"] * ranks


def on_the_first(bad: bool) -> str:
    done = []

    def work(number: int) -> None:
        done.append(number)
        if bad:
            raise UserError("it met a mistake")

    try:
        group.on_rank_0(work, 3)
    except UserError as mistake:
        return f"{done} {mistake}"
    return str(done)


@pytest.mark.parametrize("ranks", [1, 3])
def test_rank_0_alone_works_and_its_mistake_is_everyones(ranks):
    assert run_ranks(ranks, on_the_first, False) == ["[3]"] + ["[]"] * (ranks - 1)
    assert run_ranks(ranks, on_the_first, True) == [f"{did} it met a mistake" for did in ["[3]"] + ["[]"] * (ranks - 1)]


def test_several_tasks_of_srun_need_an_address(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        group.join()
    assert "RANK" not in os.environ
