"""What is said to nobody ends no run: a terminal or a pipe that is gone, a log on a full disk.

The standard library alone: it is in force before torch is imported.
"""

import io
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
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue  # None, or something that a caller put in place
        stream.flush()
        file = Lossy(stream.fileno(), "w", closefd=False)
        lossy = io.TextIOWrapper(
            io.BufferedWriter(file), stream.encoding, stream.errors, write_through=True, line_buffering=True
        )
        setattr(sys, name, lossy)
