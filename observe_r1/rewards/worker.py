"""Processes for rewards of the user's own: each call under a hard time limit, beside the program and not in it.

A worker is a Python process of its own, neither a fork nor a child of `multiprocessing`. It is killed when a call
exceeds its limit, and the next call starts another. A call whose process is killed from outside is repeated.

Two libraries were tried in its place: loky 3.7 has no time limit for a call, and pebble 5.2, by spawn or by forkserver,
keeps fewer promises:

    promise                                              here           pebble
    a limit that ends a call, even in C code             yes            yes
    no process outlives a program that is killed         yes            no: all do that are in a call
    the user's main script needs no main guard           yes            no: the pool breaks
    SIGTERM to every process of a job loses no call      yes            no: the call fails
    a call whose process is killed is repeated           yes            no: it fails
    what the user's code starts ends with it             yes            no
    what the user's code prints is off standard output   yes            by an initializer of one's own
    seconds until the first result, two processes        0.7            0.4 by spawn, 0.1 by forkserver

None of them limits memory: a reward may well load a model.
"""

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, TypeVar

from observe_r1.errors import UserError

T = TypeVar("T")

START_LIMIT = 120.0
"""Seconds in which a worker has to import what it needs."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which terminals and schedulers ask the program to stop, often in every process of a job. Workers ignore
them: the program ends its workers itself."""

_TRIES = 3
"""Processes that a call gets, one after the other, if they are killed."""

_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals by which a process dies of what it does itself."""


class WorkerDied(Exception):  # noqa: N818  (no fault of the program's)
    """The call ended its process, or crashed every process that it was given to; or the worker was closed."""


class WorkerKilled(UserError):  # noqa: N818
    """Several processes, one after the other, were killed from outside during one call."""


class _Killed(Exception):  # noqa: N818
    """A signal ended the process; it may not come again."""

    def __init__(self, number: int) -> None:
        self.number = number


class Worker:
    """One process, for one thread at a time. It ends when its end of the connection closes, so none outlives the
    program. Processes that its calls start are killed with it."""

    def __init__(self) -> None:
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._preparation: tuple[Any, ...] | None = None
        self._ready = False
        self._closed = False

    def start(self) -> Connection:
        """Start the process unless it runs; return the connection to it without waiting until it is ready."""
        if self._closed:
            raise WorkerDied("the worker is closed")
        if self._running is None:
            ours, theirs = Pipe()
            with theirs, _signals_held():
                process = subprocess.Popen(  # noqa: S603  (our own module)
                    [sys.executable, "-P", "-m", "observe_r1.rewards.worker_main", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C in the terminal is for the program, which then ends its workers
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
                )
                self._running = process, ours
            if self._closed:  # by another thread, which found no process to kill
                process.kill()
            return ours
        return self._running[1]

    def prepare(self, function: Callable[..., T], *args: Any, timeout: float) -> T:
        """Return `function(*args)` as `call` does, and call it first in every process that replaces this one."""
        value = self.call(function, *args, timeout=timeout)
        self._preparation = function, args, timeout
        return value

    def call(self, function: Callable[..., T], *args: Any, timeout: float) -> T:
        """Return `function(*args)`, computed in the process; if the process is killed, in up to two further ones.

        Args:
            function: Must pickle, as `args` and the result must.
            args: Of the function.
            timeout: Seconds.

        Raises:
            TimeoutError: It took over `timeout` seconds; the process was killed.
            WorkerDied: It ended its process or crashed three, or the worker was closed.
            WorkerKilled: Three processes were killed from outside.
            UserError: The function raised it.
            RuntimeError: The function raised anything else, and the message holds its traceback; or the process did not
                start.
        """
        deaths: list[int] = []
        while True:
            try:
                succeeded, value = self._attempt(function, args, timeout)
                break
            except _Killed as death:
                deaths.append(death.number)
                if len(deaths) == _TRIES:
                    raise _verdict(deaths) from death
        if isinstance(value, UserError):
            raise value
        if not succeeded:
            raise RuntimeError(f"{function.__qualname__} failed in its worker process:\n{value}")
        return value

    def kill(self) -> None:
        """End the process at once, for good; a call in another thread raises `WorkerDied`."""
        self._closed = True
        if running := self._running:  # read once: the thread in the call may end the process, too
            running[0].kill()

    def close(self) -> None:
        """End the process for good and free what it used. Not during a call."""
        self._closed = True
        self._stop()

    def _stop(self) -> int:
        """End the process and what it started; return its exit code, its own if it had already ended."""
        code = 0
        if self._running is not None:
            process, connection = self._running
            with suppress(ProcessLookupError, PermissionError):  # already gone; macOS: gone and not waited for
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            connection.close()
        self._running, self._ready = None, False
        return code

    def _attempt(self, function: Callable[..., T], args: tuple[Any, ...], timeout: float) -> tuple[bool, Any]:
        try:
            connection = self.start()
            if not self._ready:
                self._await_ready(connection)
                if self._preparation:
                    self._exchange(connection, self._preparation)
            return self._exchange(connection, (function, args, timeout))
        except BaseException:
            self._stop()
            raise

    def _await_ready(self, connection: Connection) -> None:
        died = False
        try:
            self._ready = connection.poll(START_LIMIT) and connection.recv()
        except (EOFError, OSError):
            died = True
        if not self._ready:
            code = self._stop()
            if self._closed:
                raise WorkerDied("the worker was closed while it started")
            if died and code < 0 and -code not in _CRASHES:
                raise _Killed(-code)
            raise RuntimeError("a worker process did not start; its own message is above")

    def _exchange(self, connection: Connection, request: tuple[Any, ...]) -> tuple[bool, Any]:
        timeout = request[-1]
        try:
            connection.send(request)
            if connection.poll(timeout):
                return connection.recv()
        except (EOFError, OSError) as error:
            raise self._death(timeout) from error
        raise TimeoutError(f"no result within {timeout:g} s")

    def _death(self, timeout: float) -> Exception:
        """Return the error for a process that ended during a call with this time limit."""
        code = self._stop()
        if self._closed:
            return WorkerDied("the worker was closed during a call")
        if code == -signal.SIGALRM:
            return TimeoutError(f"no result within {timeout:g} s, by the process's own clock")
        return _Killed(-code) if code < 0 else WorkerDied(f"exit code {code} during a call")


def _verdict(deaths: list[int]) -> Exception:
    """Return the error for processes that died of these signals, one after the other."""
    last = f"signal {deaths[-1]}, {signal.strsignal(deaths[-1])}"
    if all(number in _CRASHES for number in deaths):
        return WorkerDied(f"a crash of {len(deaths)} processes ({last})")
    return WorkerKilled(
        f"a scoring process was killed {len(deaths)} times during one call ({last}): is the machine or the job out of "
        "memory? Give it more, or lower rewards.workers"
    )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back what a worker ignores: a process that starts meanwhile gets none of it until it can ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerPool:
    """Workers that take calls as they come. A context manager: leaving it ends the processes and drops open calls.

    Args:
        size: Number of processes.
        timeout: Seconds that a call may take.
    """

    def __init__(self, size: int, timeout: float) -> None:
        self._timeout = timeout
        self._workers = [Worker() for _ in range(size)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="worker")

    def __enter__(self) -> "WorkerPool":
        for worker in self._workers:
            worker.start()
            self._idle.put(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()

    def prepare(self, function: Callable[..., T], *args: Any, timeout: float) -> list[T]:
        """Return `function(*args)` of each process, as `Worker.prepare` does; before any other call."""
        calls = [self._threads.submit(worker.prepare, function, *args, timeout=timeout) for worker in self._workers]
        return [call.result() for call in calls]

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Return the future of `function(*args)`; its result raises as `Worker.call` does."""
        return self._threads.submit(self._call, function, *args)

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        worker = self._idle.get()
        try:
            return worker.call(function, *args, timeout=self._timeout)
        finally:
            self._idle.put(worker)
