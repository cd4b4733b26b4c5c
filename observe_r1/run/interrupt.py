"""Ctrl-C that saves: the first one ends the run after the current step, a second one at once.

SIGTERM (from schedulers and containers) and SIGHUP (from a terminal that closes) count as Ctrl-C. A signal that the
process was started to ignore, under `nohup` or in the background of a script, stays ignored.
"""

import os
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread, main_thread
from time import sleep
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
        acknowledge: Called from the signal handler with what is waited for, as `after` was told. It may only set
            attributes, because the signal may have interrupted anything, even a write to the terminal.
    """

    def __init__(self, acknowledge: Callable[[str], None]) -> None:
        self.requested = False
        self._acknowledge = acknowledge
        self._after = ""
        self._previous: dict[signal.Signals, Any] = {}

    def after(self, what: str) -> None:
        """Set what the first signal from now on waits for: the words after "stopping after"; empty for nothing."""
        self._after = what

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal raise during the block, in which nothing can be saved: a model is loaded, say."""
        after, self._after = self._after, ""
        try:
            yield
        finally:
            self._after = after

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) is not signal.SIG_IGN:
                self._previous[each] = signal.signal(each, self._on_signal)
        self._previous[_NUDGE] = signal.signal(_NUDGE, lambda number, frame: None)
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        Thread(target=_nudge_main_thread, args=(reader,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)  # which ends the thread
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._after:
            raise KeyboardInterrupt
        self.requested = True
        self._acknowledge(self._after)


_NUDGE = signal.SIGURG
"""Means nothing, and is ignored by a program without a handler for it."""
_PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before each nudge."""


def _nudge_main_thread(signals: int) -> None:
    """Wake the main thread after each signal whose number can be read from the descriptor `signals`.

    Python handles a signal in the main thread, between two of its instructions. One that arrives just before the main
    thread begins to wait for a lock (a future's, say) does not wake it: Ctrl-C would act after the wait, if that ends.
    A later signal to that thread ends the wait, and then Python handles both.
    """
    with os.fdopen(signals, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            for pause in _PAUSES if number[0] != _NUDGE else ():
                sleep(pause)
                signal.pthread_kill(main_thread().ident or 0, _NUDGE)


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
    """Return the terminal's attributes; None if there is none, or this process is in its background."""
    try:
        return termios.tcgetattr(_STANDARD_INPUT) if os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp() else None
    except (OSError, termios.error):  # a file, a pipe, another session's terminal, one that was closed
        return None


def _set_local(attributes: list[Any], modes: int) -> None:
    with suppress(termios.error):  # closed just now
        changed = [*attributes[:_LOCAL], modes, *attributes[_LOCAL + 1 :]]
        termios.tcsetattr(_STANDARD_INPUT, termios.TCSANOW, changed)
