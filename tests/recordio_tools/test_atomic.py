"""Outputs that are there whole or not at all."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recordio_tools import atomic
from recordio_tools.atomic import check_usable, check_writable, output_file, output_folder
from recordio_tools.errors import UserError

HOST = os.uname().nodename


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make(target: Path, name: str = "new", *, force: bool = False, then: BaseException | None = None) -> None:
    """An output folder with one file of that name, and an error behind it."""
    with output_folder(target, force=force) as partial:
        (partial / name).write_text(name)
        if then is not None:
            raise then


@pytest.fixture
def old(tmp_path) -> Path:
    """An output that is there already."""
    make(tmp_path / "set", "old")
    return tmp_path / "set"


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    return process


def test_a_folder_appears_when_the_block_ends(tmp_path):
    with output_folder(tmp_path / "new" / "set") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "new" / "set").exists()
    assert names(tmp_path / "new") == ["set"]
    assert (tmp_path / "new" / "set" / "a").read_text() == "1"
    os.umask(mask := os.umask(0))
    assert (tmp_path / "new" / "set").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("exchange", [True, False])
def test_force_replaces_a_folder_whole(old, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    with output_folder(old, force=True) as partial:
        (partial / "new").write_text("new")
        assert names(old) == ["old"]
    assert names(old) == ["new"]
    assert names(old.parent) == ["set"]


def test_what_came_meanwhile_is_not_replaced(tmp_path):
    def slow():
        with output_folder(tmp_path / "set") as partial:
            (partial / "late").touch()
            (tmp_path / "set").mkdir()
            (tmp_path / "set" / "first").touch()

    with pytest.raises(UserError, match="exists already"):
        slow()
    assert names(tmp_path / "set") == ["first"]
    assert names(tmp_path) == ["set"]


def test_a_file_replaces_a_file(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(UserError, match="exists already"), output_file(tmp_path / "x"):
        pass
    with output_file(tmp_path / "x", force=True) as partial:
        partial.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"
    assert names(tmp_path) == ["x"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path, old):
    (tmp_path / "link").symlink_to("set")
    make(tmp_path / "link", force=True)
    assert names(old) == ["old"]
    assert not (tmp_path / "link").is_symlink()
    assert names(tmp_path / "link") == ["new"]
    assert names(tmp_path) == ["link", "set"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), KeyError(), FileNotFoundError(errno.ENOENT, "no", "source"), OSError("not an image")],
    ids=repr,
)
def test_failure_leaves_things_as_they_were(tmp_path, force, error):
    if force:
        make(tmp_path / "set", "old")
    with pytest.raises(type(error)):
        make(tmp_path / "set", force=force, then=error)
    assert names(tmp_path) == (["set"] if force else [])
    assert not force or names(tmp_path / "set") == ["old"]


def test_a_rename_that_fails_leaves_the_old_folder(old, monkeypatch):
    def refuse(one, other):
        if other == old and one.suffix == ".partial" and not one.name.endswith("-old.partial"):
            raise PermissionError(errno.EPERM, "Operation not permitted", one)
        rename(one, other)

    rename = os.rename
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match=r"set: cannot be written \(Operation not permitted\); choose another place"):
        make(old, force=True)
    assert names(old) == ["old"]
    assert names(old.parent) == ["set"]


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "(No space left on device); make room or choose another"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "(Disk quota exceeded); make room or choose another"),
        (OSError("9 requested and 1 written"), "(9 requested and 1 written); make room or choose another"),
    ],
)
def test_a_full_disk_is_answered_in_one_line(tmp_path, old, error, words):
    with pytest.raises(UserError) as answer:
        make(old, force=True, then=error)
    assert str(answer.value) == f"{old}: cannot be written {words} place"
    assert names(old) == ["old"]
    assert names(tmp_path) == ["set"]


def test_an_error_about_the_unfinished_output_names_the_output(tmp_path):
    with (
        pytest.raises(UserError, match=r"set: cannot be written \(No such file or directory\); choose another place"),
        output_folder(tmp_path / "set") as partial,
    ):
        (partial / "no" / "such" / "folder").write_text("x")
    assert names(tmp_path) == []


def test_the_working_folder_is_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(UserError, match="holds the working folder"), output_folder(tmp_path, force=True):
        pass
    assert (tmp_path / "in").is_dir()


def test_a_mount_point_is_refused_at_once(old, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == old)
    with pytest.raises(UserError, match="set: is a mount point, which --force cannot replace; choose a name in it"):
        check_writable(old, force=True)


def test_leftovers_of_dead_processes_are_removed(tmp_path, dead):
    kept = [f".set.{HOST}.{os.getppid()}.abc.partial", f".set.elsewhere.{dead}.abc.partial", f".set.{HOST}.x.partial"]
    for name in (f".set.{HOST}.{dead}.abc.partial", *kept):
        (tmp_path / name).mkdir()
    make(tmp_path / "set")
    assert names(tmp_path) == sorted([*kept, "set"])


def test_a_folder_that_a_killed_writer_had_moved_aside_comes_back(tmp_path, old, dead):
    old.rename(tmp_path / f".set.{HOST}.{dead}.abc-old.partial")
    with pytest.raises(UserError, match="exists already"):
        make(old)
    assert names(old) == ["old"]
    assert names(tmp_path) == ["set"]


def test_messages_name_the_output_as_it_was_given(tmp_path, old, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^set: exists already"):
        make(Path("set"))
    with pytest.raises(UserError, match=r"^set: cannot be written"):
        make(Path("set"), force=True, then=OSError(errno.ENOSPC, "No space left on device"))
    (old / "file").touch()
    with pytest.raises(UserError, match=r"^set/file/x: cannot be written"):
        make(Path("set/file/x"))


def test_names_as_long_as_they_may_be(tmp_path):
    target = tmp_path / ("ä" * 127)
    make(target)
    assert names(target) == ["new"]


def test_files_are_flushed_before_the_rename_and_the_parent_after_it(tmp_path, monkeypatch):
    done = []
    flush, replace = atomic.flush, os.replace
    monkeypatch.setattr(atomic, "flush", lambda path: (done.append(path.name), flush(path)))
    monkeypatch.setattr(os, "replace", lambda one, other: (done.append("rename"), replace(one, other)))
    make(tmp_path / "set")
    assert done[0] == "new"
    assert done[1].startswith(".set.")
    assert done[2:] == ["rename", tmp_path.name]


@pytest.mark.parametrize("whole", [True, False])
def test_many_files_are_flushed_at_once_where_the_system_can(tmp_path, monkeypatch, whole):
    done = []
    monkeypatch.setattr(atomic, "MANY_FILES", 3)
    monkeypatch.setattr(atomic, "flush", lambda path: done.append(path.name))
    if not whole:
        monkeypatch.setattr(atomic, "_flush_file_system", lambda path: False)
    with output_folder(tmp_path / "set") as partial:
        for number in range(4):
            (partial / str(number)).touch()
    assert len(done) == (1 if whole else 6)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("begin", [check_writable, lambda *a, **k: output_folder(*a, **k).__enter__()])
@pytest.mark.parametrize("name", ["x" * 300, "file/set", "link/set"])
def test_places_that_cannot_be_written_are_refused_at_once(tmp_path, begin, name, force):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match="cannot be written"):
        begin(tmp_path / name, force=force)
    assert names(tmp_path) == ["file", "link"]


def test_a_place_without_rights_is_refused_at_once(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"set: cannot be written \(Permission denied\); choose another place"):
        check_writable(tmp_path / "set")


def test_a_place_without_space_is_refused_at_once(tmp_path, monkeypatch):
    check_writable(tmp_path / "set", space=1)
    with pytest.raises(UserError, match=r"set: needs 1,152,921,504,606,846,976 bytes, [\d,]+ are free in .*make room"):
        check_writable(tmp_path / "set", space=2**60)
    assert names(tmp_path) == []


def test_what_is_writable_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "no" / "such" / "place")
    assert names(tmp_path) == []


@pytest.mark.parametrize("check", [check_writable, lambda target, **how: check_writable(target, folder=True, **how)])
def test_an_existing_output_is_refused_at_once(old, check):
    check(old, force=True)
    with pytest.raises(UserError, match="exists already; choose another name or give --force"):
        check(old)


def test_a_folder_never_replaces_a_file_nor_the_reverse(tmp_path, old):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, which --force will not replace with a folder"):
        make(tmp_path / "file", force=True)
    with pytest.raises(UserError, match="is a folder, which --force"), output_file(old, force=True):
        pass
    assert names(tmp_path) == ["file", "set"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="watches the system calls")
def test_a_finished_output_is_on_disk(tmp_path):
    """In the order of the system's calls: the file, its folder, the rename, the parent."""
    program = "from recordio_tools.atomic import *\nwith output_folder('set') as p: (p / 'a').write_text('1')"
    calls = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(Path(atomic.__file__).parents[1])}
    seen = subprocess.run(calls, cwd=tmp_path, env=environment, capture_output=True, text=True).stderr
    lines = [line for line in seen.splitlines() if str(tmp_path) in line or "rename" in line]
    assert [("rename" in line, "/a>" in line) for line in lines] == [
        (False, True), (False, False), (True, False), (False, False)
    ], seen  # fmt: skip


def test_a_folder_to_write_into_may_be_the_working_folder_or_one_above_it(tmp_path, monkeypatch):
    (tmp_path / "in" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in")
    for folder in (".", "..", "here", "new", "new/er", tmp_path):
        check_usable(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "in"]


def test_a_folder_to_write_into_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        check_usable(tmp_path / "file")
    for place in (tmp_path / "file" / "in", "/proc/in"):
        with pytest.raises(UserError, match="cannot be written"):
            check_usable(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
