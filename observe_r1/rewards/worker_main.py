"""What runs in a worker process: `python -m observe_r1.rewards.worker_main FD` serves one connection."""

import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

_MEMORY = 2 << 30
"""Bytes of data a worker may hold: `(10^9)!` would take the machine's."""

_GRACE = 1.0
"""Seconds past the limit after which the process ends itself, for the case that its program is gone."""


def main() -> None:
    """Serve calls until the program closes its end, or ends."""
    # Ctrl-C in the terminal is for the program, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))

    # The slow import, done before a time limit counts.
    import observe_r1.rewards.equivalence  # noqa: F401

    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        connection.send(True)
        while True:
            _serve(connection)


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
    except MemoryError:
        os._exit(1)
    except Exception:  # noqa: BLE001  (the program raises it, with this traceback)
        return False, traceback.format_exc()


if __name__ == "__main__":
    main()
