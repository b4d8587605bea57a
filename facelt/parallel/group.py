"""The group of ranks: joining and leaving it, this rank's number, and plain Python values shared between ranks."""

import datetime
import os
import socket
import sys
from collections.abc import Callable
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
# Ranks on this machine, as deepspeed, torchrun and Slurm name them.
_LOCAL_RANKS = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")


def join(timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group (NCCL with CUDA, else gloo) and return this rank's device.

    timeout_minutes: how long a collective waits for a rank.

    Reads RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as a launcher sets them, or SLURM_* under srun;
    with neither, a group of one. CPU threads are the cores divided by the ranks of this machine, unless
    OMP_NUM_THREADS says otherwise. Ranks talk over the interface that leads to MASTER_ADDR, unless GLOO_SOCKET_IFNAME
    or NCCL_SOCKET_IFNAME names one; rank 0 says which.
    Raises UserError where the ranks cannot meet, or are more than the GPUs.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        if "MASTER_ADDR" not in os.environ:
            raise UserError(
                "srun started several tasks but MASTER_ADDR is not set: export the first node's address "
                "and a free MASTER_PORT, as jobs/train.sbatch does"
            )
        os.environ.update({name: os.environ[slurm] for name, slurm in _SLURM.items()})
    alone = "RANK" not in os.environ
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed insists on it
    cuda = torch.cuda.is_available()
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}: start as many "
                "ranks as there are"
            )
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        local_ranks = int(next((os.environ[n] for n in _LOCAL_RANKS if n in os.environ), 1))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_ranks))
    if not dist.is_initialized():
        backend, timeout = "nccl" if cuda else "gloo", datetime.timedelta(minutes=timeout_minutes)
        if alone:
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, timeout=timeout, store=store, rank=0, world_size=1)
        else:
            _meet(backend, timeout)
    return torch.device("cuda", local_rank) if cuda else torch.device("cpu")


def _meet(backend: str, timeout: datetime.timedelta) -> None:
    """Join the other ranks at MASTER_ADDR and MASTER_PORT."""
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    name = f"{backend.upper()}_SOCKET_IFNAME"
    if name not in os.environ and (interface := interface_towards(host)) is not None:
        os.environ[name] = interface
    try:
        dist.init_process_group(backend, timeout=timeout)
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
    say(f"{dist.get_world_size()} ranks meet at {host}:{port}, {backend} over {os.environ.get(name, 'its own choice')}")


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
