"""Values shared between ranks, and a mistake of one rank that becomes all ranks' at once."""

import os
import socket
import subprocess
import sys

import psutil
import pytest
import torch
from launching import ROOT, environment
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


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without a GPU, its driver or a job; `machine(devices=…, **environment)` makes another one of it."""
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(group, "_GPU_FILE", tmp_path / "nvidia0")
    monkeypatch.setattr(group, "_DRIVER_FILE", tmp_path / "version")

    def make(devices: int, driver: str = "", **environment: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        if driver:
            (tmp_path / "nvidia0").touch()
            (tmp_path / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue\n")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(
    "devices, local_rank, environment, device",
    [
        (0, 0, {}, "cpu"),
        (8, 3, {}, "cuda:3"),
        (8, 3, {"SLURM_PROCID": "11", "RANK": "11"}, "cuda:3"),  # srun that shows all GPUs of the node
        (1, 3, {"SLURM_PROCID": "11", "RANK": "11"}, "cuda:0"),  # srun --gpus-per-task=1
        (0, 0, {"SLURM_GPUS_ON_NODE": "0"}, "cpu"),
        (0, 0, {"SLURM_JOB_GPUS": "0,1", "DS_ACCELERATOR": "cpu"}, "cpu"),
        (0, 0, {"driver": "535.1", "CUDA_VISIBLE_DEVICES": ""}, "cpu"),
    ],
)
def test_the_device_of_a_rank(machine, devices, local_rank, environment, device):
    machine(devices, **environment)
    assert group._device(local_rank) == torch.device(device)


@pytest.mark.parametrize(
    "devices, local_rank, environment, words",
    [
        (0, 0, {"SLURM_JOB_GPUS": "0,1"}, r"the job was given GPUs \(SLURM_JOB_GPUS=0,1\), but .* driver unknown"),
        (0, 0, {"SLURM_GPUS_ON_NODE": "4"}, r"SLURM_GPUS_ON_NODE=4"),
        (0, 0, {"driver": "535.161.08"}, r"has NVIDIA GPUs, but .* driver 535\.161\.08, .* needs driver 580 or later"),
        (1, 1, {}, "rank 1 of this machine, which shows 1 GPUs: .* at most 1"),
        (1, 1, {"SLURM_PROCID": "0", "RANK": "1"}, "rank 1 of this machine"),  # a launcher within one task of srun
    ],
)
def test_gpus_that_cannot_be_used_are_refused(machine, devices, local_rank, environment, words):
    machine(devices, **environment)
    with pytest.raises(UserError, match=words):
        group._device(local_rank)


def test_nccl_is_told_the_device(machine, monkeypatch):
    machine(2, RANK="1", LOCAL_RANK="1", WORLD_SIZE="2")
    told, chosen = {}, []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **more: told.update(more, to=backend))
    assert group.join() == torch.device("cuda", 1)
    assert (told["to"], told["device_id"], chosen) == ("nccl", torch.device("cuda", 1), [torch.device("cuda", 1)])


def test_a_port_in_use_is_answered_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        there = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        work = (
            "from facelt.parallel import group\nfrom facelt.errors import one_line\nwith one_line('x'): group.join(1)"
        )
        done = subprocess.run(
            [sys.executable, "-c", work],
            cwd=ROOT,
            env=environment() | there,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert f"port {there['MASTER_PORT']} of 127.0.0.1 is in use" in line


def test_the_interface_towards_a_host():
    loopback = group.interface_towards("127.0.0.1")
    assert loopback is not None
    assert any(address.address == "127.0.0.1" for address in psutil.net_if_addrs()[loopback])
    assert group.interface_towards("no-such-host.invalid") is None
    for interface, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                assert group.interface_towards(one.address) in psutil.net_if_addrs(), interface
