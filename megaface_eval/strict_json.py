"""JSON to the letter: what cannot be read, or is not UTF-8 and JSON, is answered in one line."""

import json
from pathlib import Path
from typing import Any, NoReturn

from megaface_eval.errors import InputError


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises InputError for one that is not readable, UTF-8 and JSON to the letter (no NaN)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half a character can be escaped, but not written
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({' '.join(str(error).split())}); mend it or make it again") from error
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} has no place in it")
