"""The group of ranks: joining and leaving it, this rank's number, and plain Python values shared between ranks."""

import datetime
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil
import torch
import torch.distributed as dist
from tqdm import tqdm

from facelt.errors import UserError
from facelt.parallel import heartbeat

T = TypeVar("T")
P = ParamSpec("P")

# Slurm's names for what a launcher would set.
_SLURM = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}
# What CUDA 13 needs, by NVIDIA's release notes (580.65.06 on Linux).
_NEEDED_DRIVER = "580"
_GPU_FILE, _DRIVER_FILE = Path("/dev/nvidia0"), Path("/proc/driver/nvidia/version")
# Ranks on this machine, as deepspeed, torchrun and Slurm name them.
_LOCAL_RANKS = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")


def join(timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group (NCCL with CUDA, else gloo) and return this rank's device.

    timeout_minutes: how long a collective waits for a rank.

    Reads RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as a launcher sets them, or SLURM_* under srun;
    with neither, a group of one. CPU threads are the cores divided by the ranks of this machine, unless
    OMP_NUM_THREADS says otherwise. Ranks talk over the interface that leads to MASTER_ADDR, unless GLOO_SOCKET_IFNAME
    or NCCL_SOCKET_IFNAME names one; rank 0 says which.
    Raises UserError for GPUs that cannot be used, and where the ranks cannot meet.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        if "MASTER_ADDR" not in os.environ:
            raise UserError(
                "srun started several tasks but MASTER_ADDR is not set: export the first node's address "
                "and a free MASTER_PORT, as jobs/train.sbatch does"
            )
        os.environ.update({name: os.environ[slurm] for name, slurm in _SLURM.items()})
    alone = "RANK" not in os.environ
    device = _device(int(os.environ.setdefault("LOCAL_RANK", "0")))  # DeepSpeed insists on that name
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        local_ranks = int(next((os.environ[n] for n in _LOCAL_RANKS if n in os.environ), 1))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_ranks))
    if not dist.is_initialized():
        backend, timeout = "nccl" if cuda else "gloo", datetime.timedelta(minutes=timeout_minutes)
        own = device if cuda else None  # told which, NCCL connects at once, and not at some first collective
        if alone:
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, timeout=timeout, store=store, rank=0, world_size=1, device_id=own)
        else:
            _meet(backend, timeout, own)
    return device


def _device(local_rank: int) -> torch.device:
    """Where this rank computes. Raises UserError for GPUs that torch cannot use, and for fewer than there are ranks."""
    if not torch.cuda.is_available():
        if (gpus := _unused_gpus()) is not None:
            raise UserError(
                f"{gpus}, but torch {torch.__version__} can use none of them: driver {_driver()}, while CUDA "
                f"{torch.version.cuda} needs driver {_NEEDED_DRIVER} or later; update the driver, or export "
                "DS_ACCELERATOR=cpu to compute on the CPU"
            )
        return torch.device("cpu")
    seen = torch.cuda.device_count()
    # A task of `srun --gpus-per-task=1` sees its own GPU alone, whatever its number on the node.
    by_srun = os.environ.get("SLURM_PROCID") is not None and os.environ["SLURM_PROCID"] == os.environ.get("RANK")
    if seen == 1 and by_srun:
        return torch.device("cuda", 0)
    if local_rank >= seen:
        raise UserError(
            f"rank {local_rank} of this machine, which shows {seen} GPUs: one GPU holds one rank; start at most {seen} "
            "ranks here"
        )
    return torch.device("cuda", local_rank)


def _unused_gpus() -> str | None:
    """What says that GPUs are meant to be used here; None where nothing does, or the CPU is asked for."""
    if os.environ.get("DS_ACCELERATOR") == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"):
        if os.environ.get(name, "0") != "0" or (name != "SLURM_GPUS_ON_NODE" and name in os.environ):
            return f"the job was given GPUs ({name}={os.environ[name]})"
    return "this machine has NVIDIA GPUs" if _GPU_FILE.exists() else None


def _driver() -> str:
    """The version of the NVIDIA driver, as far as it can be read."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER_FILE.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else "unknown"


def _meet(backend: str, timeout: datetime.timedelta, device: torch.device | None) -> None:
    """Join the other ranks at MASTER_ADDR and MASTER_PORT. device: of NCCL."""
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    name = f"{backend.upper()}_SOCKET_IFNAME"
    if name not in os.environ and (interface := interface_towards(host)) is not None:
        os.environ[name] = interface
    try:
        dist.init_process_group(backend, timeout=timeout, device_id=device)
    except (dist.DistError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "EADDRINUSE" in reason or "in use" in reason:
            raise UserError(
                f"port {port} of {host} is in use: give another, by --master_port or MASTER_PORT, or let facelt-train "
                "choose one"
            ) from None
        raise UserError(
            f"the ranks cannot meet at {host or 'MASTER_ADDR'}:{port or 'MASTER_PORT'} ({reason[:200]}): "
            "see that every machine reaches this address and port"
        ) from None
    say(
        f"{os.environ['WORLD_SIZE']} ranks meet at {host}:{port}, "
        f"{backend} over {os.environ.get(name, 'its own choice')}"
    )


def interface_towards(host: str) -> str | None:
    """The network interface by which this machine reaches a host, IPv4 or IPv6; None where that is not known.

    None too for the loopback of a host that is not called so: other machines do not reach it by that.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of datagrams: nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    for interface, addresses in psutil.net_if_addrs().items():
        if any(one.family == family and one.address.partition("%")[0] == own for one in addresses):
            loopback = own == "::1" or own.startswith("127.")
            return interface if not loopback or host in ("localhost", "::1") or host.startswith("127.") else None
    return None


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def as_process(main: Callable[[], int]) -> int:
    """`main` as a process of its own, which leaves the group when it has finished; its exit status."""
    status = main()
    leave()
    return status


def say(text: str) -> None:
    """One line on stderr, from rank 0; clear of a progress bar."""
    if rank() == 0:
        tqdm.write(text, file=sys.stderr)


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        heartbeat.mark("collective")
        dist.barrier()


def share(value: T) -> T:
    """Rank 0's value (any picklable object) on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    heartbeat.mark("collective")
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Every rank's value (any picklable object), in the order of ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    heartbeat.mark("collective")
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType] - all are filled


def first_error(error: str | None) -> str | None:
    """The error of the lowest rank that has one, on every rank: so that all stop together and one speaks."""
    return next((e for e in gather(error) if e is not None), None)


def on_rank_0(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """function(…) on rank 0 alone, while the others wait; a UserError there becomes one on all ranks."""

    def work() -> None:
        if rank() == 0:
            function(*args, **kwargs)

    together(work)


def together(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """function(…) on every rank. A UserError on any rank becomes one on all of them, so that none waits for it."""
    answer: list[T] = []
    error = None
    try:
        answer.append(function(*args, **kwargs))
    except UserError as mistake:
        error = str(mistake)
    if (first := first_error(error)) is not None:
        raise UserError(first)
    return answer[0]
