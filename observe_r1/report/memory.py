"""What a page that is made again and again remembers: what unchanged files gave, and the lines read of growing ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Lines:
    """A file of lines as far as it was read."""

    file: tuple[int, int]
    """Device and inode: another file that takes its name has others."""
    end: int = 0
    last: bytes = b""
    """The last line, to see that the file has only grown since."""
    values: list[Any] = field(default_factory=list)

    def is_beginning_of(self, file: BinaryIO) -> bool:
        state = os.fstat(file.fileno())
        file.seek(self.end - len(self.last))
        return self.file == (state.st_dev, state.st_ino) and file.read(len(self.last)) == self.last


class Memory:
    """What was made of files, kept for the next page; what a page did not use is forgotten after it."""

    def __init__(self) -> None:
        self._lines: dict[Path, _Lines] = {}
        self._kept: dict[tuple[Path, str], tuple[tuple[int, ...], Any]] = {}
        self._used: set[tuple[Path, str]] = set()

    def begin(self) -> None:
        """Begin another page."""
        self._kept = {key: value for key, value in self._kept.items() if key in self._used}
        self._used = set()

    def of_file(
        self, path: Path, kind: str, read: Callable[[], T], enough: Callable[[T], bool] = lambda kept: True
    ) -> T:
        """Return what `read` makes of a file, or what it made before if the file is the same and that is enough.

        Args:
            path: Of a file that only ever changes as a whole.
            kind: Tells apart what is made of the same file.
            read: Reads the file.
            enough: Whether what was kept will do.
        """
        state = _state(path)  # before reading: what is written meanwhile is read the next time
        known = self._kept.get((path, kind))
        value: T = known[1] if known and known[0] == state and enough(known[1]) else read()
        self._kept[path, kind] = state, value
        self._used.add((path, kind))
        return value

    def lines(self, path: Path, parse: Callable[[bytes, int], T]) -> list[T]:
        """Return what `parse` makes of each line of a file that grows; only new lines are read.

        A file that was cut back is another one, and read from its beginning. A last line without its end is being
        written, or a killed run has left it: it is left out until it is whole.

        Args:
            path: Of the file.
            parse: Takes a line and its number, from 1.

        Raises:
            OSError: The file cannot be read.
        """
        with path.open("rb") as file:
            known = self._lines.get(path)
            if known is None or not known.is_beginning_of(file):
                state = os.fstat(file.fileno())
                known = _Lines((state.st_dev, state.st_ino))
            file.seek(known.end)
            lines = file.read().split(b"\n")[:-1]
        values = [parse(line, number) for number, line in enumerate(lines, start=len(known.values) + 1)]
        if lines:
            last, more = lines[-1] + b"\n", sum(len(line) + 1 for line in lines)
            known = _Lines(known.file, known.end + more, last, known.values + values)
        self._lines[path] = known
        return known.values


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
