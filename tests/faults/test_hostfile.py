"""Plain `deepspeed --hostfile` over ssh, two addresses of this machine for two hosts: trained, stopped, gone on.

An ssh server of its own, whose keys and files lie in the test's folder; Debian's pdsh and openssh-server.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faces import write_faces
from injector import WHOLE
from launching import ROOT, environment, free_port
from slurm import PATH, wait_until, without
from tiny import TINY

from facelt.run_folder import checkpoint

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "pdsh")
WHY_NOT = without(PROGRAMS, ("openssh-server", "openssh-client", "pdsh"), install=WHOLE)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
HOSTS = ("127.0.0.1", "127.0.0.2")
SSHD = """
Port {port}
ListenAddress 127.0.0.1
ListenAddress 127.0.0.2
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
SSH = """
Port {port}
IdentityFile {folder}/user
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile {folder}/known
LogLevel ERROR
"""


@pytest.fixture
def reached(tmp_path):
    """The environment in which `ssh` reaches both hosts."""
    folder, port = tmp_path / "ssh", free_port()
    (folder / "bin").mkdir(parents=True)
    for name, text in (("sshd_config", SSHD), ("ssh_config", SSH)):
        (folder / name).write_text(text.format(folder=folder, port=port))
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    ours = folder / "bin" / "ssh"
    ours.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    ours.chmod(0o755)
    exports = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}  # what DeepSpeed does not hand on by itself
    (folder / "exports").write_text("".join(f"{name}={value}\n" for name, value in exports.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen(
        [str(shutil.which("sshd", path=PATH)), "-D", "-e", "-f", str(folder / "sshd_config")],
        stderr=(folder / "sshd.said").open("w"),
    )
    env = environment() | {"PATH": f"{ours.parent}:{environment()['PATH']}", "DS_ENV_FILE": str(folder / "exports")}
    try:
        wait_until(lambda: all(_answers(host, env) for host in HOSTS), 30, (folder / "sshd.said").read_text)
        yield env
    finally:
        daemon.kill()
        daemon.wait()


def _answers(host: str, env: dict[str, str]) -> bool:
    return subprocess.run(["ssh", host, "true"], env=env, capture_output=True, check=False).returncode == 0


def begin(folder: Path, env: dict[str, str]) -> subprocess.Popen:
    # DeepSpeed ends its launchers by the path of their Python: one of our own, so that it meets no other's.
    if not (folder / "venv").exists():
        (folder / "venv").symlink_to(Path(sys.executable).parents[1])
    launcher = [str(folder / "venv" / "bin" / "python"), "-m", "deepspeed.launcher.runner"]
    options = ["--hostfile", str(folder / "hosts"), "--master_addr", HOSTS[0], "--master_port", str(free_port())]
    train = ["facelt/train.py", "--deepspeed_config", str(folder / "ds.json"), "--data", str(folder / "data")]
    return subprocess.Popen(
        [*launcher, *options, *train, "--output", str(folder / "run")],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_hosts_train_stop_when_asked_and_go_on(tmp_path, reached):
    recipe = {**TINY, "facelt": {**TINY["facelt"], "plain": {"epochs": 40_000}, "meta": {"epochs": 1}}}
    (tmp_path / "ds.json").write_text(json.dumps(recipe))
    (tmp_path / "hosts").write_text("".join(f"{host} slots=1\n" for host in HOSTS))
    write_faces(tmp_path / "data")
    run, lines = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = begin(tmp_path, reached)
    wait_until(lambda: process.poll() is not None or (lines.exists() and lines.stat().st_size > 0), 240)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    wait_until(lambda: checkpoint.latest(run, "plain") is not None and not (run / "lock").exists(), 60, lambda: said)
    newest = checkpoint.latest(run, "plain")
    assert newest is not None
    state = checkpoint.read_state(newest)
    assert (state.finished, state.starts) == (False, [0, 3])  # five classes over two ranks

    recipe["facelt"]["plain"] = {"epochs": (state.step + 5) * TINY["train_batch_size"] / 30}
    (tmp_path / "ds.json").write_text(json.dumps(recipe))
    process = begin(tmp_path, reached)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert f"2 ranks meet at {HOSTS[0]}:" in said
    assert f"{HOSTS[1]}: " in said  # the second host spoke, its words marked by pdsh
    steps = [(line["stage"], line["step"]) for line in map(json.loads, lines.read_text().splitlines())]
    assert [step for stage, step in steps if stage == "plain"] == list(range(state.step + 5))
    assert steps[-1][0] == "meta"
