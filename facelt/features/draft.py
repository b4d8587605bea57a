"""Unfinished features: beside the output, and gone on with by the same command.

    .NAME.unfinished/lock            held by the process that writes
    .NAME.unfinished/progress.json   the plan, the steps done, the columns: sealed, replaced after each block
    .NAME.unfinished/set/            the feature set as far as it is

What is in set/ is on disk before progress.json says so. Of rank 0 alone.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from facelt.errors import UserError
from facelt.parallel import group
from facelt.run_folder import hashes
from facelt.run_folder.lock import Lock, is_alive, read_holder
from recordio_tools.atomic import check_writable, explained, flush, put_folder

Plan = dict[str, Any]  # all that rows depend on, by the words that messages have for it; as JSON
PROGRESS, SET, FEATURES = "progress.json", "set", "features.npy"


class Progress(BaseModel):
    """What progress.json holds. steps: batches of all ranks whose rows are on the disk."""

    model_config = ConfigDict(frozen=True)

    plan: Plan
    steps: int
    columns: list[str]


def made_of(plan: Plan) -> str:
    """A plan in one hash, as meta.json keeps it."""
    return xxhash.xxh3_64_hexdigest(json.dumps(plan, sort_keys=True).encode())


def is_made(output: Path, plan: Plan) -> bool:
    """Whether an output is there and was made by this very plan."""
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((output / "meta.json").read_text(encoding="utf-8")).get("made_of") == made_of(plan)
    return False


def check_output(output: Path, plan: Plan, force: bool) -> None:
    """Refuse before hours of work what a Draft would refuse. Raises UserError."""
    check_writable(output, force=force, folder=True)
    holder = read_holder(home(output))
    if holder is not None and holder.pid != os.getpid() and is_alive(home(output), holder):
        raise UserError(
            f"{output}: process {holder.pid} on {holder.host} writes it; wait for it, or choose another name"
        )
    if (progress := read_progress(output)) is not None:
        check_plan(output, progress.plan, plan)


def home(output: Path) -> Path:
    """Where an output is while it is unfinished."""
    path = Path(os.path.abspath(output))
    return path.with_name(f".{path.name}.unfinished")


class Draft:
    """An output from its claim until it takes its place.

    steps: batches of all ranks that it holds already.

    Raises UserError where another process writes it, or what is unfinished was begun by another plan.
    """

    def __init__(self, output: Path, plan: Plan, force: bool) -> None:
        check_writable(output, force=force, folder=True)
        self.output, self.plan, self.force = output, plan, force
        self.home = home(output)
        self.folder = self.home / SET
        self._lock = Lock(self.home, f"{output}: another process writes it")
        self._matrix: np.memmap | None = None
        self._columns: dict[str, np.memmap] = {}
        try:
            self.steps = self._begun()
        except BaseException:
            self._lock.release()
            raise

    def _begun(self) -> int:
        """Open what is there, and say up to which step; 0 where nothing is, or it is damaged."""
        progress = read_progress(self.output)
        if progress is None:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            return 0
        check_plan(self.output, progress.plan, self.plan)
        try:
            self._matrix = _mapped(self.folder / FEATURES)
            self._columns = {name: _mapped(self.folder / f"{name}.npy") for name in progress.columns}
        except (OSError, ValueError):
            group.say(f"{self.home} is damaged: begun anew")
            shutil.rmtree(self.folder, ignore_errors=True)
            return 0
        return progress.steps

    @property
    def matrix(self) -> np.memmap:
        """features.npy, once it is made or opened."""
        assert self._matrix is not None
        return self._matrix

    def make(self, shape: tuple[int, int], number: np.dtype, columns: list[str]) -> None:
        """Make features.npy (of this shape and type) and the columns, with their space on the disk."""
        with explained(self.output):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._matrix = _created(self.folder / FEATURES, shape, number)
            self._columns = {
                name: _created(self.folder / f"{name}.npy", shape[:1], np.dtype(np.float32)) for name in columns
            }

    def write(self, images: np.ndarray, rows_nD: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Rows and columns of the images of these numbers."""
        self.matrix[images] = rows_nD
        for name, column_n in columns.items():
            self._columns[name][images] = column_n

    def keep(self, steps: int) -> None:
        """So many steps are done and stay, whatever becomes of the process. A disk that is full is a warning."""
        try:
            for array, name in ((self.matrix, FEATURES), *((c, f"{n}.npy") for n, c in self._columns.items())):
                array.flush()
                flush(self.folder / name)
            progress = Progress(plan=self.plan, steps=steps, columns=[*self._columns])
            partial = self.home / f"{PROGRESS}.partial"
            partial.write_text(json.dumps(hashes.sealed(progress.model_dump())) + "\n", encoding="utf-8")
            flush(partial)
            os.replace(partial, self.home / PROGRESS)
            flush(self.home)
        except OSError as error:
            group.say(
                f"warning: {self.home} cannot be written ({error.strerror}); interrupted now, it would begin anew"
            )

    def finish(self) -> None:
        """Put the set in its place. Raises UserError where that cannot be, or something came there meanwhile."""
        self._matrix, self._columns = None, {}
        # Not to be gone on with from here: what an exchange leaves in its place is the output of before.
        (self.home / PROGRESS).unlink(missing_ok=True)
        put_folder(self.folder, self.output, force=self.force)
        self.drop()

    def drop(self) -> None:
        """Leave nothing of it."""
        (self.home / PROGRESS).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it; what `keep` kept stays."""
        if not (self.home / PROGRESS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        with suppress(OSError):  # nothing is kept: leave no folder
            self.home.rmdir()


def read_progress(output: Path) -> Progress | None:
    """How far an unfinished output is; None where there is none that can be gone on with."""
    try:
        held = json.loads((home(output) / PROGRESS).read_text(encoding="utf-8"))
        if hashes.is_broken(held):
            return None
        return Progress.model_validate({name: held[name] for name in Progress.model_fields})
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def check_plan(output: Path, was: Plan, now: Plan) -> None:
    """Raise UserError where what is unfinished was begun by another plan."""
    changed = [
        f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}" for name in now if was.get(name) != now[name]
    ]
    if changed:
        raise UserError(
            f"{output}: unfinished features lie in {home(output)}, of another command: {changed[0]}"
            f"{f' ({len(changed) - 1} more)' if len(changed) > 1 else ''}; repeat that command to finish them, or "
            "remove that folder to begin anew"
        )


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _created(path: Path, shape: tuple[int, ...], number: np.dtype) -> np.memmap:
    """An empty array, mapped for writing, with its space on the disk: a full one would kill a later write."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=number, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _mapped(path: Path) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="r+")
