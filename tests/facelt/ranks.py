"""Run functions on groups of gloo ranks and collect what each returns. A group's processes start once and stay."""

import atexit
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp
from launching import free_port

_groups: dict[int, "_Group"] = {}


def run_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """[function(*args) on rank 0, 1 …] within one gloo group; tensors come back as numpy arrays.

    The function must be importable; it sees the group through `facelt.parallel`.
    """
    if world_size not in _groups:
        _groups[world_size] = _Group(world_size)
    return _groups[world_size].run(function, args)


class _Group:
    def __init__(self, world_size: int) -> None:
        port = free_port()
        context = mp.get_context("spawn")
        self.tasks = [context.SimpleQueue() for _ in range(world_size)]
        self.results = context.SimpleQueue()
        self.processes = [
            context.Process(target=_serve, args=(rank, world_size, port, tasks, self.results), daemon=True)
            for rank, tasks in enumerate(self.tasks)
        ]
        for process in self.processes:
            process.start()
        atexit.register(self.stop)

    def run(self, function: Callable[..., Any], args: tuple) -> list[Any]:
        for tasks in self.tasks:
            tasks.put((function, args))
        answers = dict(self.results.get() for _ in self.processes)
        for rank, (failed, answer) in sorted(answers.items()):
            if failed:
                _groups.pop(len(self.processes)).stop()  # its ranks may be out of step
                raise AssertionError(f"rank {rank} failed:\n{answer}")
        return [answers[rank][1] for rank in range(len(self.processes))]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()


def _serve(rank: int, world_size: int, port: int, tasks: Any, results: Any) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    from facelt.parallel import group

    group.join(timeout_minutes=2)
    while True:
        torch.set_default_dtype(torch.float32)
        try:
            function, args = tasks.get()
            results.put((rank, (False, _plain(function(*args)))))
        except Exception:
            results.put((rank, (True, traceback.format_exc())))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().copy()  # a shared-memory handle would die with the process
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
