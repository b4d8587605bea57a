"""What all commands of the package have in common: mistakes in one line, outputs whole or not there, strict JSON."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from megaface_eval.errors import InputError

INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(message.split())}; see --help", file=sys.stderr)
        raise SystemExit(2)


def refuse(error: InputError) -> int:
    """Say what is wrong in one line on stderr; the exit status of a mistake."""
    line = f"error: {' '.join(str(error).split())}"
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr)
    return 2


def answer(work: Callable[[], None], silent: bool = False) -> int:
    """Do the work: 0 done, 2 a mistake, 130 interrupted. silent: another process says it."""
    try:
        work()
    except InputError as error:
        return 2 if silent else refuse(error)
    except KeyboardInterrupt:
        if not silent:
            print("interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, renamed to it at the end in place of what was there, and removed if anything fails.

    Raises InputError where it cannot be made, written or renamed: no such place, no rights, no space.
    """
    beside = None
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", dir=path.parent.resolve()))
        inner = beside / path.name
        inner.mkdir()
        yield inner
        if path.exists():
            path.rename(beside / "replaced")
        inner.rename(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); make room or choose another place") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise InputError if `new_folder` could not begin here; asked before the work, not after."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:80]}.", dir=path.parent.resolve()) as beside:
            (Path(beside) / path.name).mkdir()
    except OSError as error:
        raise InputError(f"{path}: cannot be written here ({error.strerror}); choose another place") from error


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises InputError for one that is not readable, UTF-8 and JSON to the letter (no NaN)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half a character can be escaped, but not written
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({' '.join(str(error).split())}); mend it or make it again") from error
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} has no place in it")
