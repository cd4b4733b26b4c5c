"""What runs in a worker process: `python -m observe_r1.rewards.worker_main FD [user-code]` serves one connection."""

import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from observe_r1.errors import UserError

_MEMORY = 2 << 30
"""Bytes of data a worker may hold: `(10^9)!` would take the machine's."""

_GRACE = 1.0
"""Seconds past the limit after which the process ends itself, for the case that its program is gone."""


def main() -> None:
    """Serve calls until the program closes its end, or ends."""
    # Some schedulers send it to every process: it is for the program, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is printed here must not mix with the program's output, and stderr can write any text.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if sys.argv[2:] != ["user-code"] and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))

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
    except UserError as error:
        return False, error
    except Exception:  # noqa: BLE001  (the program raises it, with this traceback)
        return False, traceback.format_exc()


if __name__ == "__main__":
    main()
