"""A terminal, a pipe or a log's disk that is gone: what is said is lost, the process goes on."""

import os
import subprocess
import sys

import pytest
from launching import ROOT, environment

# Says more than a pipe or a buffer holds, by all ways that a run speaks, and writes a file at its end.
SPEAKS = """
import logging, sys
from pathlib import Path
from tqdm import tqdm
from facelt.training.ending import unheard
unheard.allow()
input()
for i in tqdm(range(200), mininterval=0):
    print("x" * 1000, file=sys.stderr, flush=True)
    print("y" * 1000)
    tqdm.write("z" * 1000, file=sys.stderr)
    logging.error("w")
Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize("gone", ["pipe", "disk", "terminal"])
def test_what_nobody_hears_ends_nothing(tmp_path, gone):
    if gone == "pipe":
        read, write = os.pipe()
    elif gone == "terminal":
        read, write = os.openpty()
    else:
        read, write = os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    process = subprocess.Popen(
        [sys.executable, "-c", SPEAKS, str(tmp_path / "end")],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=write,
        text=True,
    )
    os.close(write)
    os.close(read)  # whoever listened
    process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "done"


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_descriptor_is_no_file_of_the_run(tmp_path, closed):
    words = (
        "import os, sys; from facelt.training.ending import unheard; unheard.allow(); "
        f"file = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'x'); os.write(2, b'y'); "
        "print(1); print(2, file=sys.stderr); file.write('whole')"
    )
    shell = ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, words]
    assert subprocess.run(shell, cwd=ROOT, env=environment(), check=False).returncode == 0
    assert (tmp_path / "file").read_text() == "whole"


def test_what_is_heard_comes_as_before(tmp_path):
    words = (
        'import sys; from facelt.training.ending import unheard; unheard.allow(); print("é"); sys.stderr.write("half")'
    )
    full = [sys.executable, "-c", words]
    done = subprocess.run(full, cwd=ROOT, env=environment(), capture_output=True, encoding="utf-8", check=True)
    assert (done.stdout, done.stderr) == ("é\n", "half")
