"""Standard output and error: what can be written there, and what a failure to write means."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from observe_r1.run.progress import Progress

_NOBODY_READS = (errno.EPIPE, errno.EIO)
"""A reader that has seen enough or died, a terminal that was closed: neither is an error of a command."""


class Outlet(io.RawIOBase):
    """A file descriptor to which writing never fails: what cannot be written is lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.lost: OSError | None = None
        """Why something was lost that somebody might still read: the disk is full, say."""

    def write(self, data: object) -> int:
        """Write at least a part of `data`."""
        view = memoryview(data)  # type: ignore[arg-type]
        while True:
            try:
                return os.write(self._descriptor, view)
            except BlockingIOError:  # a pipe that somebody else made non-blocking
                select([], [self._descriptor], [])
            except OSError as error:
                if error.errno not in _NOBODY_READS:
                    self.lost = error
                return view.nbytes

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)


@contextmanager
def steady_streams() -> Iterator[dict[str, Outlet]]:
    """Let no write to standard output or error raise in the block, whatever becomes of their reader.

    Characters that their encoding lacks become escapes. Streams that are no files of the system stay as they are; gives
    the outlets of the others by their names, `stdout` and `stderr`.
    """
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    outlets: dict[str, Outlet] = {}
    for name, stream in before.items():
        if isinstance(stream, io.TextIOWrapper) and isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            stream.flush()
            outlets[name] = Outlet(stream.fileno())
            text = io.TextIOWrapper(
                io.BufferedWriter(outlets[name]),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, text)
    try:
        yield outlets
    finally:
        for name in outlets:
            getattr(sys, name).flush()
            setattr(sys, name, before[name])


def starting(label: str, loading: str = "torch and transformers") -> Progress:
    """Return the view of a command that is about to import what `loading` names; enter it before the imports."""
    from observe_r1.run.progress import Progress  # with rich, for which `--help` does not wait

    view = Progress(label)
    view.now(f"loading {loading}")
    return view


def show(text: str) -> None:
    """Write `text` to standard output at once."""
    print(text, end="", flush=True)


def one_line(text: str) -> str:
    """Return `text` with everything that is no printable character as an escape, and addresses without passwords.

    Messages quote files, servers and settings: line breaks in them, codes that steer a terminal, halves of characters.
    """
    from observe_r1.web import without_password  # takes long to import

    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in without_password(text))
