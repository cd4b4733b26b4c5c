"""Ctrl-C that saves: the first one ends the run after the current step, a second one at once.

SIGTERM, by which schedulers and containers ask a process to end, counts as Ctrl-C.
"""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Turns the first signal into a flag while the context lasts; the second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM):
            self._previous[each] = signal.signal(each, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # The handler may interrupt a write to stderr: only the system call itself is safe here.
        os.write(2, b"\nasked to stop: saving after this step; a second Ctrl-C stops at once\n")
