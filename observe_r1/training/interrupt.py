"""Ctrl-C that saves: the first one ends the run after the current step, a second one at once."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Turns the first SIGINT into a flag while the context lasts; the second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # The handler may interrupt a write to stderr: only the system call itself is safe here.
        os.write(2, b"\nCtrl-C: saving after this step; press again to stop at once\n")
