"""Requests to stop: noted while steps are done, obeyed at once otherwise; the launcher's end; a second Ctrl-C."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from launching import ROOT, environment

from facelt.training.ending import stopping

# A process that listens, says so, and is then busy; `before` and `first` are done before and after.
LISTENING = """
{before}
import time
from facelt.training.ending import stopping
stop = stopping.listen()
{first}
print("ready", flush=True)
{busy}
"""
STEPS = """
with stop.heeded():
    while not stop.asked:
        time.sleep(0.01)
    time.sleep({after})
print("saved", flush=True)
"""


def started(busy: str, first: str = "", before: str = "", env: dict[str, str] | None = None) -> subprocess.Popen:
    code = LISTENING.format(before=before, first=first, busy=busy)
    full = {key: value for key, value in environment().items() if key not in ("RANK", "SLURM_PROCID")} | (env or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=full, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # to what it is busy with
    return process


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_while_steps_are_done_is_noted_and_said(number):
    process = started(STEPS.format(after=0))
    process.send_signal(number)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "saved\n")
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"facelt.train: {name}: saving and stopping" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_before_a_step_a_signal_is_simply_obeyed(number):
    process = started("time.sleep(30)")
    process.send_signal(number)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == stopping.AGAIN
    assert "before a step: stopped; run the same command to go on" in said


def test_a_second_ctrl_c_ends_at_once_in_one_line_even_while_the_main_thread_waits():
    waits = "import threading; lock = threading.Lock(); lock.acquire()\nwith stop.heeded():\n    lock.acquire()"
    process = started(waits)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)  # a launcher's, which hears Ctrl-C too: no second request
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert [line for line in said.splitlines() if line] == [
        "facelt.train: Ctrl-C: saving and stopping; Ctrl-C again ends at once",
        "facelt.train: Ctrl-C again: ended at once; run the same command to go on from the last checkpoint",
    ]


def test_at_the_end_of_a_run_a_signal_changes_nothing():
    process = started("time.sleep(0.8)", first="stop.finished()")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=20) == 0


LAUNCHER = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(rank.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("deep", [False, True])
def test_a_rank_whose_launcher_was_killed_stops(deep):
    """The launcher itself, or what started it: DeepSpeed's is two processes deep, and the inner one lives on."""
    code = LISTENING.format(before="", first="", busy=STEPS.format(after=0))
    inner = [sys.executable, "-c", LAUNCHER, code, "deepspeed.launcher.launch"]
    outer = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[2:])", "deepspeed", *inner]
    env = environment() | {"RANK": "0"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    launcher = subprocess.Popen(outer if deep else inner, cwd=ROOT, env=env, **pipes)
    assert launcher.stdout is not None
    rank = int(launcher.stdout.readline())
    assert launcher.stdout.readline() == "ready\n"
    middle = stopping._parent(rank)
    time.sleep(0.2)
    launcher.kill()
    assert launcher.stdout.readline() == "saved\n"
    if deep and middle is not None:
        os.kill(middle, signal.SIGKILL)  # the inner one, which this test orphaned
    launcher.wait()


def test_a_rank_whose_connection_from_another_host_is_gone_stops():
    """By ssh a shell stands between the connection and the launcher, and outlives it."""
    code = LISTENING.format(before="", first="", busy=STEPS.format(after=0))
    inner = shlex.join([sys.executable, "-c", LAUNCHER, code, "deepspeed.launcher.launch"])
    shell = ["bash", "-c", f"{inner}; true"]
    sshd = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[2:])", "sshd", *shell]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    connection = subprocess.Popen(sshd, cwd=ROOT, env=environment() | {"RANK": "0"}, start_new_session=True, **pipes)
    assert connection.stdout is not None
    connection.stdout.readline()
    assert connection.stdout.readline() == "ready\n"
    time.sleep(0.2)
    connection.kill()
    assert connection.stdout.readline() == "saved\n"
    os.killpg(connection.pid, signal.SIGKILL)  # shell and launcher, which this test orphaned
    connection.wait()


def test_under_nohup_a_terminal_that_closes_is_not_heard():
    process = started("time.sleep(0.8)", before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 0


def test_listening_gives_the_signals_back():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.listening() as stop:
        stop.finished()
        os.kill(os.getpid(), signal.SIGUSR1)  # at its end nothing happens
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


CLEANS_UP = """
import time
from facelt.training.ending import stopping
stopping.leave_in_one_line("facelt.extract")
try:
    print("ready", flush=True)
    time.sleep(30)
finally:
    print("clean", flush=True)
"""


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_cleans_up_leaves_in_one_line(number, status):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CLEANS_UP], cwd=ROOT, env=environment(), **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        out, said = process.communicate(timeout=20)
    assert (process.returncode, out) == (status, "clean\n")
    assert said.strip() == "facelt.extract: interrupted; nothing unfinished is kept"
