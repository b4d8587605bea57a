"""A Slurm of two nodes on this machine: its own key, ports, folders and daemons, which touch no other one.

Debian's packages, slurm-wlm and munge: present, or installed here by root where the whole matrix is asked for.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from launching import ROOT, environment, free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
NODES = ("n1", "n2")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])  # where daemons lie
# A requeued job waits until the credentials of before have expired; a node is lost after some seconds of silence.
CONF = """
ClusterName=facelt
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=8
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=20
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES State=UP
"""


def missing(install: bool) -> str | None:
    """Why there can be no Slurm of two nodes here, or None."""
    return "daemons of Slurm need root" if os.geteuid() else without(PROGRAMS, ("slurm-wlm", "munge"), install)


def without(programs: tuple[str, ...], packages: tuple[str, ...], install: bool) -> str | None:
    """Which of these programs are not here, or None. install: Debian's packages, where root can."""
    absent = _absent(programs)
    if absent and install and os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", *words], env=quiet, capture_output=True, check=False)
        absent = _absent(programs)
    return f"no {', '.join(absent)} here: apt-get install {' '.join(packages)}" if absent else None


def _absent(programs: tuple[str, ...]) -> list[str]:
    return [name for name in programs if shutil.which(name, path=PATH) is None]


class Cluster:
    """Two nodes, from its making until `close`. folder: for all that Slurm writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        line = "NodeName={0} NodeHostname={1} NodeAddr=127.0.0.1 Port={2} CPUs=2 State=UNKNOWN"
        host = socket.gethostname()
        nodes = "\n".join(line.format(node, host, free_port()) for node in NODES)
        conf = CONF.format(host=host, port=free_port(), folder=folder, nodes=nodes)
        (folder / "slurm.conf").write_text(conf)
        self.env = {name: value for name, value in environment().items() if not name.startswith(("SLURM_", "MASTER_"))}
        self.env |= {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}  # n1 does not resolve
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), PATH])
        self.daemons: dict[str, subprocess.Popen] = {}
        munge = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid"}
        munge |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        files = [f"--{option}={folder / name}" for option, name in munge.items()]
        try:
            self._start("munged", "--foreground", "--force", *files)
            wait_until((folder / "munge.socket").exists, 20)
            self._start("slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
            wait_until(lambda: self.ask("sinfo", "--noheader", "--format=%T %D").split() == ["idle", "2"], 60)
        except BaseException:
            self.close()
            raise

    def _start(self, program: str, *options: str, name: str = "") -> None:
        log = (self.folder / f"{name or program}.said").open("ab")
        self.daemons[name or program] = subprocess.Popen(
            [program, *options], env=self.env, stdout=log, stderr=log, start_new_session=True
        )

    def start_node(self, node: str) -> None:
        """Its daemon."""
        self._start("slurmd", "-D", "-N", node, name=node)

    def lose_node(self, node: str) -> None:
        """As where its power goes: its daemon, and all that it has started, killed at once."""
        daemon = psutil.Process(self.daemons.pop(node).pid)
        for process in [daemon, *_started_by(self.folder, node)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait()

    def ask(self, *command: str, cwd: Path = ROOT) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stderr} {self.said()}"
        return done.stdout

    def ranks(self) -> dict[str, list[psutil.Process]]:
        """The tasks of training on each node."""
        found: dict[str, list[psutil.Process]] = {}
        for node in NODES:
            for process in _started_by(self.folder, node):
                with suppress(psutil.Error):
                    if "SLURM_PROCID" in process.environ() and "facelt.train" in process.cmdline()[:3]:
                        found.setdefault(node, []).append(process)
        return found

    def submit(self, log: Path, *words: str, cwd: Path = ROOT) -> str:
        """The number of a job. log: what it prints. words: options of sbatch, the script and its arguments."""
        return self.ask("sbatch", "--parsable", f"--output={log}", *words, cwd=cwd).strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        words = self.ask("scontrol", "show", "job", "--oneliner", number).split()
        return {name: value for name, equals, value in (word.partition("=") for word in words) if equals}

    def wait_for(self, number: str, states: tuple[str, ...], seconds: float, restarts: int = 0) -> dict[str, str]:
        """A job, once it has one of these states and so many restarts at least."""
        known: dict[str, str] = {}

        def there() -> bool:
            known.update(self.job(number))
            return known["JobState"] in states and int(known["Restarts"]) >= restarts

        wait_until(there, seconds, lambda: f"job is {known} {self.said()}")
        return known

    def said(self) -> str:
        """The last lines of the daemons, for a test that fails."""
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.said")])
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-800:]}" for log in logs)

    def close(self) -> None:
        """End the daemons, and what their jobs still do."""
        for process in _started_by(self.folder, *NODES):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()


def _started_by(folder: Path, *nodes: str) -> list[psutil.Process]:
    """What the cluster in that folder runs on these nodes: tasks, batch shells, and the steps that they belong to."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            known = process.environ()
            if known.get("SLURM_CONF") == str(folder / "slurm.conf") and known.get("SLURMD_NODENAME") in nodes:
                found |= {process, *(one for one in process.parents() if "slurmstepd" in " ".join(one.cmdline()))}
    return list(found)


def wait_until(there: Callable[[], bool], seconds: float, why: Callable[[], str] = lambda: "") -> None:
    """Wait for what is to come. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, f"not within {seconds} s: {why()}"
        time.sleep(0.2)
