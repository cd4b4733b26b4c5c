"""Ctrl-C that saves: the first one ends the run after the current step, a second one at once.

SIGTERM (from schedulers and containers) and SIGHUP (from a terminal that closes) count as Ctrl-C. A signal that the
process was started to ignore, under `nohup` or in the background of a script, stays ignored.
"""

import os
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

_STANDARD_INPUT = 0
_LOCAL = 3
"""Index of the local modes in a terminal's attributes."""
_CTRL_C = termios.ECHOCTL | termios.NOFLSH
"""The modes that print `^C`, and that keep pending output."""


class StopRequest:
    """Turns the first signal into a flag; the second one raises `KeyboardInterrupt`. A context manager.

    Until `after` is called there is nothing to save, and the first signal raises, too.

    Args:
        acknowledge: Called from the signal handler with what happens next. It may only set attributes, because the
            signal may have interrupted anything, even a write to the terminal.
    """

    def __init__(self, acknowledge: Callable[[str], None]) -> None:
        self.requested = False
        self._acknowledge = acknowledge
        self._after = ""
        self._previous: dict[signal.Signals, Any] = {}

    def after(self, what: str) -> None:
        """Set what the first signal from now on waits for: the words after "stopping after"."""
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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Ctrl-C from printing `^C` and from discarding output in the block: both would tear what is drawn.

    Nothing changes where standard input is not the terminal that sends the signals.
    """
    before = _terminal()
    try:
        if before:
            _set_local(before, before[_LOCAL] & ~termios.ECHOCTL | termios.NOFLSH)
        yield
    finally:
        if before and (now := _terminal()):
            _set_local(now, now[_LOCAL] & ~_CTRL_C | before[_LOCAL] & _CTRL_C)


def _terminal() -> list[Any] | None:
    """Return the terminal's attributes; None where there is none, or this process is in its background."""
    try:
        return termios.tcgetattr(_STANDARD_INPUT) if os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp() else None
    except (OSError, termios.error):  # a file, a pipe, another session's terminal, one that was closed
        return None


def _set_local(attributes: list[Any], modes: int) -> None:
    with suppress(termios.error):  # closed just now
        changed = [*attributes[:_LOCAL], modes, *attributes[_LOCAL + 1 :]]
        termios.tcsetattr(_STANDARD_INPUT, termios.TCSANOW, changed)
