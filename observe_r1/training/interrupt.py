"""Ctrl-C that saves: the first one ends the run after the current step, a second one at once.

SIGTERM, by which schedulers and containers ask a process to end, and SIGHUP, by which a closing terminal does, count as
Ctrl-C. A signal that the process was started to ignore (under `nohup`, or in a script's background) stays ignored.
"""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Turns the first signal into a flag while the context lasts; the second one raises KeyboardInterrupt.

    Before anything has been said to `after`, there is nothing to save: the first one raises it, too.

    Args:
        acknowledge: called from the signal handler with what happens next. It may only set attributes: the signal may
            have interrupted anything, a write to the terminal too.
    """

    def __init__(self, acknowledge: Callable[[str], None]) -> None:
        self.requested = False
        self._acknowledge = acknowledge
        self._after = ""
        self._previous: dict[signal.Signals, Any] = {}

    def after(self, what: str) -> None:
        """Say what the first signal from now on waits for, as in `stopping after …`."""
        self._after = what

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) is not signal.SIG_IGN:
                self._previous[each] = signal.signal(each, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._after:
            raise KeyboardInterrupt
        self.requested = True
        self._acknowledge(f"stopping after {self._after}; a second Ctrl-C stops at once")
