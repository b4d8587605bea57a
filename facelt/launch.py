"""facelt-train: training with a rank a GPU of this machine, by DeepSpeed's launcher as a child.

facelt-train --num_gpus 8 --deepspeed_config jobs/ds.json --data DATA --output RUN

A signal goes on to the ranks, which save and stop, and the command waits for them: the launcher itself would be gone at
once, or kill them after half a minute. The exit status is theirs. Without --num_gpus this is facelt/train.py.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from facelt.parallel.heartbeat import AGAIN
from recordio_tools.command_line import complain

COMMAND = "facelt-train"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
LAUNCHER = "deepspeed.launcher.launch"
SIGNALLED = 256 - 64  # statuses from here on are the launcher's for a rank that a signal ended: 256 - its number
CHILDREN = "/proc/{0}/task/{0}/children"


def main(argv: list[str]) -> int:
    """Start the ranks and wait for them; their exit status. argv: with --num_gpus, and perhaps --master_port."""
    ranks, argv = _taken(argv, "--num_gpus", None)
    port, argv = _taken(argv, "--master_port", _free_port())
    if ranks is None or ranks < 1 or port is None:
        complain("--num_gpus and --master_port are whole numbers; give --num_gpus 8", COMMAND)
        return 2
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(ranks))}).encode()).decode()
    options = [f"--world_info={world}", "--master_addr=127.0.0.1", f"--master_port={port}", "--quiet", "--module"]
    # In a session of its own: Ctrl-C is for this process alone to pass on.
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", LAUNCHER, *options, "facelt.train", *argv], start_new_session=True
    )
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for rank in _children(child.pid):
            with suppress(ProcessLookupError):
                os.kill(rank, number)
        if not _children(child.pid):  # nothing has begun
            child.terminate()

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup keeps it out
            signal.signal(number, pass_on)
    status = child.wait()
    if asked and status == -signal.SIGTERM:
        return AGAIN  # before there was a rank
    if status >= SIGNALLED or status < 0:
        number = 256 - status if status > 0 else -status
        complain(f"{_name(number)} ended a rank{_last_words(argv)}; run the same command to go on", COMMAND)
        return AGAIN
    return status


def _taken(argv: list[str], option: str, default: int | None) -> tuple[int | None, list[str]]:
    """The number behind an option, and the arguments without it; None where it is no number."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == option:
            text = value if equals else "".join(argv[i + 1 : i + 2])
            rest = argv[:i] + argv[i + (1 if equals else 2) :]
            return int(text) if text.isdigit() else None, rest
    return default, argv


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _children(pid: int) -> list[int]:
    """The ranks: what the launcher has started."""
    with suppress(OSError):
        return [int(word) for word in Path(CHILDREN.format(pid)).read_text(encoding="utf-8").split()]
    return []


def _name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _last_words(argv: list[str]) -> str:
    """What a rank that died of a fault left in the run's folder, such as "Fatal Python error: Bus error"."""
    for option, folder in pairwise(argv):
        for file in sorted(Path(folder, "heartbeat").glob("rank-*.fatal")) if option == "--output" else ():
            with suppress(OSError):
                words = file.read_text(encoding="utf-8").splitlines()[:1]
                if words:
                    return f" ({file.stem}: {words[0]})"
    return ""


def command() -> int:
    """What the console command runs."""
    argv = sys.argv[1:]
    if "RANK" not in os.environ and any(word.partition("=")[0] == "--num_gpus" for word in argv):
        return main(argv)
    from facelt import train  # after the choice: it takes seconds to import

    return train.command()


if __name__ == "__main__":
    sys.exit(command())
