"""Hashes of files and of JSON: what a checkpoint says of itself, and whether that still holds.

xxh3 of 128 bits tells damage, not malice.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import xxhash
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from facelt.parallel import heartbeat

CHUNK = 1 << 22  # bytes
QUIET = 2.0  # seconds before progress is shown


class FileFacts(BaseModel):
    """Of one file: its length, and its hash in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    xxh3: str


def measure(path: Path, bar: tqdm | None = None) -> FileFacts:
    """Length and hash of a file. Raises OSError."""
    digest, length = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            heartbeat.move()
            length += len(chunk)
            if bar is not None:
                bar.update(len(chunk))
    return FileFacts(bytes=length, xxh3=digest.hexdigest())


def first_fault(folder: Path, files: dict[str, FileFacts], names: Collection[str], silent: bool) -> str | None:
    """What is wrong with the first of these files that is not as `files` has it, None where all are.

    All are hashed; progress is shown after two seconds unless `silent`. Raises OSError for one that cannot be read.
    """
    with tqdm(
        total=sum(files[name].bytes for name in names),
        desc=f"checking {folder.name}",
        unit="B",
        unit_scale=True,
        delay=QUIET,
        disable=silent,
        leave=False,
    ) as bar:
        for name in names:
            length = (folder / name).stat().st_size
            if length != files[name].bytes:
                return f"{name} has {length:,} bytes, {files[name].bytes:,} were written"
            if measure(folder / name, bar) != files[name]:
                return f"{name} is not what was written: its hash differs"
    return None


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its hash beside it, under "seal"."""
    return {**content, "seal": _seal(content)}


def is_broken(content: dict[str, Any]) -> bool:
    """Whether the content is not what `sealed` gave; without a seal it is taken as it stands."""
    return "seal" in content and content["seal"] != _seal({k: v for k, v in content.items() if k != "seal"})


def _seal(content: dict[str, Any]) -> str:
    """Of the content as JSON gives it back, in one spelling."""
    plain = json.loads(json.dumps(content))
    return xxhash.xxh3_128_hexdigest(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
