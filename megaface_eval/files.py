"""Files read and written with mistakes in one line: strict JSON, and folders that are there whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from megaface_eval.errors import InputError
from recordio_tools.atomic import output_folder as whole_folder


@contextmanager
def output_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """`recordio_tools.atomic.output_folder`, with InputError where the system refuses: no rights, no space, …"""
    try:
        with whole_folder(path, force=force) as folder:
            yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); make room or choose another place") from error


class _Enough(Exception):
    """Leaves `output_folder` before anything takes its place."""


def check_writable(path: Path, replace: bool = False) -> None:
    """Raise InputError if `output_folder` could not begin here; asked before the work, not after.

    replace: whether there may be something already.
    """
    if os.path.lexists(path) and not replace:  # unlike Path.exists, False for a name too long to be
        raise InputError(f"{path} exists; choose another place or remove it")
    if not path.parent.resolve().is_dir():
        raise InputError(f"{path}: cannot be written: {path.parent} does not exist; make it or choose another place")
    with suppress(_Enough), output_folder(path, force=True):
        raise _Enough


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
