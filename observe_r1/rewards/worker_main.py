"""What runs in a worker process: `python -m observe_r1.rewards.worker_main FD` serves the connection at FD."""

import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from observe_r1.errors import UserError
from observe_r1.rewards.worker import IGNORED

_GRACE = 1.0
"""Seconds past the limit after which the process ends itself, in case the program no longer exists."""


def main() -> None:
    """Serve calls until the program closes its end of the connection, or ends."""
    _ignore_signals()
    # What is printed here must not mix with the program's output; and unlike stdout, stderr can write any text.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    os.set_inheritable(int(sys.argv[1]), False)  # processes of the reward file would keep it open
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, OSError):  # also in the middle of a message
        connection.send(True)
        while True:
            _serve(connection)


def _ignore_signals() -> None:
    """Ignore what schedulers send to every process: it is for the program, which then ends its workers.

    Not by SIG_IGN: processes that a reward file starts would inherit it, and could not be ended by SIGTERM. Those that
    it forks get the usual handlers before any signal reaches them.
    """
    usual = {each: signal.signal(each, lambda number, frame: None) for each in IGNORED}

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)

    def become_usual() -> None:
        for each, handler in usual.items():
            signal.signal(each, handler)
        release()

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED),
        after_in_parent=release,
        after_in_child=become_usual,
    )
    release()  # `Worker.start` holds them back


def _serve(connection: Connection) -> None:
    function, args, timeout = connection.recv()
    # No Python handler: the signal ends the process even inside one long multiplication.
    signal.setitimer(signal.ITIMER_REAL, timeout + _GRACE)
    reply = _call(function, args)
    signal.setitimer(signal.ITIMER_REAL, 0)
    connection.send(reply)


def _call(function: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, function(*args)
    except UserError as error:
        return False, error
    except Exception:  # noqa: BLE001  (the program raises it, with this traceback)
        return False, traceback.format_exc()


if __name__ == "__main__":
    main()
