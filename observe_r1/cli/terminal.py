"""Standard output and error: what can be written there, and what a failure to write means."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from select import select

_NOBODY_READS = (errno.EPIPE, errno.EIO)
"""The reader has seen enough or died, or the terminal was closed: no error of the command."""


class Outlet(io.RawIOBase):
    """A file descriptor to which writing never fails: what cannot be written is lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.lost: OSError | None = None
        """Why output was lost that somebody might still read, for example because the disk is full."""

    def write(self, data: object) -> int:
        """Write at least a part of `data`, and return how many bytes."""
        view = memoryview(data)  # type: ignore[arg-type]
        while True:
            try:
                return os.write(self._descriptor, view)
            except BlockingIOError:  # somebody else made the pipe non-blocking
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
    """Let no write to standard output or error fail in the block, whatever happens to their reader.

    Characters that their encoding lacks become escapes. Yields the outlets by name, `stdout` and `stderr`; a stream
    that is no file of the system has none, and stays as it is.
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


def show(text: str) -> None:
    """Write `text` to standard output at once."""
    print(text, end="", flush=True)


def one_line(text: str) -> str:
    """Return `text` with unprintable characters as escapes, and addresses without their passwords.

    Messages quote files, servers and settings, which may hold line breaks, control codes and halves of characters.
    """
    from observe_r1.web import without_password  # takes long to import

    return escaped(without_password(text))


def escaped(text: str, keep: str = "") -> str:
    """Return `text` with unprintable characters, but those in `keep`, as escapes: a terminal obeys some of them."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
