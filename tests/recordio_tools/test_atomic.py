"""Outputs that are there whole or not at all."""

import os

import pytest

from recordio_tools import atomic
from recordio_tools.atomic import output_file, output_folder
from recordio_tools.format.recordio import RecordError


def test_a_folder_appears_when_the_block_ends(tmp_path):
    with output_folder(tmp_path / "new" / "set") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "new" / "set").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set"]
    assert (tmp_path / "new" / "set" / "a").read_text() == "1"


@pytest.mark.parametrize("exchange", [True, False])
def test_force_replaces_a_folder_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    with output_folder(tmp_path / "set", force=True) as partial:
        (partial / "new").write_text("new")
        assert (tmp_path / "set" / "old").read_text() == "old"
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_came_meanwhile_is_not_replaced(tmp_path):
    def slow():
        with output_folder(tmp_path / "set") as partial:
            (partial / "late").touch()
            (tmp_path / "set").mkdir()
            (tmp_path / "set" / "first").touch()

    with pytest.raises(RecordError, match="exists already"):
        slow()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_file_replaces_a_file(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(RecordError, match="exists already"), output_file(tmp_path / "x"):
        pass
    with output_file(tmp_path / "x", force=True) as partial:
        partial.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.parametrize("force", [False, True])
def test_failure_leaves_things_as_they_were(tmp_path, force):
    if force:
        (tmp_path / "set").mkdir()

    def interrupted():
        with output_folder(tmp_path / "set", force=force) as partial:
            (partial / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == (["set"] if force else [])
    assert not force or list((tmp_path / "set").iterdir()) == []


def test_the_working_folder_is_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(RecordError, match="holds the working folder"), output_folder(tmp_path, force=True):
        pass
    assert (tmp_path / "in").is_dir()


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    host = os.uname().nodename
    (tmp_path / f".set.{host}.{dead}.abc.partial").mkdir()
    (tmp_path / f".set.{host}.{os.getppid()}.abc.partial").mkdir()
    (tmp_path / f".set.elsewhere.{dead}.abc.partial").mkdir()
    with output_folder(tmp_path / "set"):
        pass
    kept = {f".set.{host}.{os.getppid()}.abc.partial", f".set.elsewhere.{dead}.abc.partial", "set"}
    assert {path.name for path in tmp_path.iterdir()} == kept
