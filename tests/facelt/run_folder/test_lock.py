"""The lock on a run: one holder at a time, named to the second; a dead one is taken over from."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from facelt.errors import UserError
from facelt.run_folder import lock
from facelt.run_folder.lock import Holder, Lock

HOLDS = "import sys; from pathlib import Path; from facelt.run_folder.lock import Lock; Lock(Path(sys.argv[1]))"
SOMEONE = Holder(host="elsewhere", pid=7, started="2026-01-02 03:04:05+00:00")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "STALE", 1.0)
    monkeypatch.setattr(lock, "BEAT", 0.1)


def test_a_second_run_is_refused_in_one_line_until_the_first_is_over(tmp_path):
    first = Lock(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        Lock(tmp_path / "run")
    said = str(caught.value)
    assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in said
    assert "\n" not in said
    first.release()
    first.release()
    assert not (tmp_path / "run").exists(), "nothing was written there"
    Lock(tmp_path / "run").release()


def test_a_killed_process_lets_go_and_is_taken_over_from(tmp_path, capsys):
    held = f"{HOLDS}; print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    holder = lock.read_holder(tmp_path)
    assert holder is not None
    assert lock.is_alive(tmp_path, holder)
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        Lock(tmp_path)
    process.kill()
    process.wait()
    assert not lock.is_alive(tmp_path, holder)
    Lock(tmp_path).release()
    assert f"taking over from process {process.pid}" in capsys.readouterr().err


def test_another_hosts_lock_is_stale_when_its_beat_has_stopped(tmp_path, quick, capsys):
    """Where flock does not reach from host to host."""
    path = tmp_path / lock.NAME
    path.write_text(SOMEONE.model_dump_json())
    begun = time.monotonic()
    Lock(tmp_path).release()
    assert 0.5 < time.monotonic() - begun < 5
    assert "taking over from process 7 on elsewhere" in capsys.readouterr().err
    path.write_text(SOMEONE.model_dump_json())
    os.utime(path, (time.time() - 60,) * 2)
    assert not lock.is_alive(tmp_path, SOMEONE)
    Lock(tmp_path).release()
    path.write_text(SOMEONE.model_dump_json())
    assert lock.is_alive(tmp_path, SOMEONE)
    threading.Timer(0.3, os.utime, [path]).start()
    with pytest.raises(UserError, match="process 7 on elsewhere, since 2026-01-02"):
        Lock(tmp_path)
    assert json.loads(path.read_text())["pid"] == 7


def test_the_age_of_a_beat_is_by_the_clock_of_the_file_system(tmp_path, quick, monkeypatch):
    """This host's clock is an hour ahead of the one that keeps the files."""
    (tmp_path / lock.NAME).write_text(SOMEONE.model_dump_json())
    ahead = time.time() + 3600
    monkeypatch.setattr(lock.time, "time", lambda: ahead)
    threading.Timer(0.3, os.utime, [tmp_path / lock.NAME]).start()
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        Lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_a_holder_that_ends_while_it_is_watched_makes_room(tmp_path, quick):
    (tmp_path / lock.NAME).write_text(SOMEONE.model_dump_json())
    threading.Timer(0.3, (tmp_path / lock.NAME).unlink).start()
    held = Lock(tmp_path)
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    held.release()


def test_a_holder_beats(tmp_path, quick):
    held = Lock(tmp_path)
    os.utime(tmp_path / lock.NAME, (0, 0))
    until = time.monotonic() + 5
    while (tmp_path / lock.NAME).stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / lock.NAME).stat().st_mtime > 0
    held.release()


def test_torn_and_foreign_contents_are_no_holder(tmp_path):
    for content in ("", "{", '{"host": 3}', "x"):
        (tmp_path / lock.NAME).write_text(content)
        assert lock.read_holder(tmp_path) is None
        Lock(tmp_path).release()
    assert lock.read_holder(tmp_path / "nowhere") is None


def test_a_place_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Lock(tmp_path / "file")
