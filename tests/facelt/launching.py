"""The commands as a user starts them: under the launcher, on gloo ranks of one thread each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCHER = Path(sys.executable).with_name("deepspeed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(config: Path, data: Path, run: Path, *more: str) -> list[str]:
    return ["facelt/train.py", "--deepspeed_config", str(config), "--data", str(data), "--output", str(run), *more]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(LAUNCHER.parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def launch(*arguments: str, ranks: int = 2) -> subprocess.CompletedProcess:
    full = [str(LAUNCHER), "--num_gpus", str(ranks), "--master_port", str(free_port()), *arguments]
    return subprocess.run(full, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
