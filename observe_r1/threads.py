"""Work in a thread that the end of the program does not wait for."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


def in_daemon_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Return the future of `function(*args)`, begun at once.

    A `ThreadPoolExecutor` is waited for at exit, which lets one server that does not answer hold up Ctrl-C.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001  (whoever asks for the result gets it)
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
