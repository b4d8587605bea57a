"""One process or many: each searches its share of the blocks, and whole numbers are summed over ranks.

Started by `deepspeed --module`, `torchrun` or `srun`. A single process needs no group, and no torch.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from megaface_eval.errors import InputError


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them: its rank among `size`."""

    rank: int = 0
    size: int = 1

    def share(self, items: list) -> list:
        """This rank's share of the items: every size-th, from the rank-th on."""
        return items[self.rank :: self.size]

    def gather(self, value: Any) -> list:
        """Every rank's value, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as distributed

        values: list = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum over ranks of an array of whole numbers."""
        return np.sum(self.gather(array), axis=0) if self.size > 1 else array


def own_gpu(gpus: int) -> int | None:
    """Which of this machine's GPUs is this process's, by its number here; None for a process alone, which has all."""
    number = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID")
    size = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)
    return None if number is None or size == 1 else int(number) % gpus


def join() -> Processes:
    """The processes of this run, by the launcher's environment: RANK and WORLD_SIZE, or SLURM_PROCID and SLURM_NTASKS.

    Raises InputError where they cannot find each other.
    """
    size = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)
    if size == 1:
        return Processes()
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")
    if rank is None or not os.environ.get("MASTER_ADDR"):
        raise InputError(
            f"{size} processes but RANK or MASTER_ADDR is not set; start with deepspeed, torchrun, or srun with "
            "MASTER_ADDR and MASTER_PORT exported"
        )
    import torch.distributed as distributed

    os.environ.setdefault("MASTER_PORT", "29500")
    try:
        distributed.init_process_group("gloo", rank=int(rank), world_size=size)
    except distributed.DistError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise InputError(f"{size} processes cannot meet at {where} ({reason}); choose another MASTER_PORT") from error
    return Processes(int(rank), size)


def leave(processes: Processes) -> None:
    """End the group that `join` made."""
    if processes.size > 1:
        import torch.distributed as distributed

        distributed.destroy_process_group()
