"""What is said to nobody ends no run: a terminal or a pipe that is gone, a log on a full disk, a closed descriptor.

The standard library alone: it is in force before torch is imported.
"""

import io
import os
import sys


class Lossy(io.FileIO):
    """A file whose writes never fail: what cannot be written is lost."""

    def write(self, content, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The number of bytes taken: all, where none can be written."""
        try:
            written = super().write(content)
        except OSError:
            written = None
        return memoryview(content).nbytes if written is None else written


def allow() -> None:
    """Let stdout and stderr of this process, from now on, take whatever is said, heard or not."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would be what libraries print to
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _lossy(number, "utf-8", "backslashreplace"))
        elif isinstance(stream, io.TextIOWrapper):  # not what a caller put in place
            stream.flush()
            setattr(sys, name, _lossy(number, stream.encoding, stream.errors))


def _lossy(descriptor: int, encoding: str, errors: str | None) -> io.TextIOWrapper:
    file = io.BufferedWriter(Lossy(descriptor, "w", closefd=False))
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, write_through=True, line_buffering=True)
