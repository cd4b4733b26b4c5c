"""Work in background threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Budget:
    """An amount of something, such as bytes, that threads take parts of and give back; a thread waits for its part.

    Args:
        total: The whole amount.
    """

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Hold `amount` during the block; more than the total is the total."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def in_daemon_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Start `function(*args)` in a thread of its own, and return its future; the program can end before the thread.

    At exit, Python waits for a `ThreadPoolExecutor`, so that one server that does not answer would hold up Ctrl-C.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def encoding_thread() -> ThreadPoolExecutor:
    """Return a pool of one thread, in which torch computes without helper threads, beside a busy main thread.

    OpenMP gives every computing thread a team of its own. Once there are more threads than cores, it puts those that
    wait to sleep at once, in all teams, and waking them takes longer than most operations of decoding.
    """
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
    pool.submit(torch.get_num_threads).result()  # a thread takes the common number when it first asks, and keeps it
    pool.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(threads)  # MKL's number is one for all threads
    return pool


def map_ahead(function: Callable[[S], T], items: Iterable[S], ahead: int) -> Generator[T, None, None]:
    """Yield `function(item)` for each item, in order, computed ahead in one background thread.

    Closing the iterator waits for the call that is running, and for no other.

    Args:
        function: Is called in the thread.
        items: What it takes.
        ahead: Results that are computed before they are asked for, at most.
    """
    thread = encoding_thread()
    try:
        for _, result in _look_ahead(lambda item: thread.submit(function, item), items, ahead + 1):
            yield result
    finally:
        thread.shutdown(cancel_futures=True)


def in_order(
    function: Callable[[S], T], items: Iterable[S], at_once: int, weigh: Callable[[S], int], most: int
) -> Iterator[tuple[S, T]]:
    """Yield each item with `function(item)`, in order, computed in several daemon threads.

    Args:
        function: Mostly waits, or computes without holding Python's lock.
        items: What it takes.
        at_once: Items that are computed ahead, at most.
        weigh: Returns how many bytes an item holds.
        most: Bytes that the items computed ahead may hold together; a single one may hold more.
    """
    return _look_ahead(lambda item: in_daemon_thread(function, item), items, at_once, weigh, most)


def _look_ahead(
    start: Callable[[S], Future[T]],
    items: Iterable[S],
    at_once: int,
    weigh: Callable[[S], int] = lambda _: 0,
    most: int = 0,
) -> Iterator[tuple[S, T]]:
    """Yield each item with the result of the future that `start` returned for it, in order, bounded as `in_order`."""
    waiting: deque[tuple[S, int, Future[T]]] = deque()
    held = 0

    def oldest() -> tuple[S, T]:  # a function, so that nothing here still holds a result while it is worked on
        nonlocal held
        item, weight, future = waiting.popleft()
        held -= weight
        return item, future.result()

    for item in items:
        weight = weigh(item)
        while waiting and (len(waiting) == at_once or held + weight > most):
            yield oldest()
        held += weight
        waiting.append((item, weight, start(item)))
    while waiting:
        yield oldest()
