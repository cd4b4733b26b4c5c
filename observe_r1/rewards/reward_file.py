"""A reward in a Python file of the user's own: called in worker processes, never in the program itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards import user_code
from observe_r1.rewards.worker import START_LIMIT, WorkerDied, WorkerKilled, WorkerPool

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings


class RewardFile:
    """The reward that a file defines, in processes of its own. A context manager: entering it imports the file.

    The file defines `reward_func(queries, prompts, labels)`, lists of one entry a response in, one number each out; or
    `reward(response, answer, example)`, a number out. A query is the prompt with its response.

    Errors on entering: `UserError` where the file cannot be imported or does not define one such function.
    """

    def __init__(self, name: str, settings: RewardSettings) -> None:
        self._path = str(Path(name).expanduser())
        self._limit = settings.call_timeout
        self._pool = WorkerPool(settings.workers, settings.call_timeout)
        self._function = ""

    def __enter__(self) -> Self:
        if not Path(self._path).is_file():
            raise UserError(f"rewards.functions: there is no file {self._path!r} (looked for in {Path.cwd()})")
        with ExitStack() as stack:
            stack.enter_context(self._pool)
            limit = max(START_LIMIT, self._limit)
            with self._explained("importing it", limit):
                self._function = self._pool.prepare(user_code.load, self._path, timeout=limit)[0]
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def rewards(self, responses: Sequence[str], example: Example, prompt: str) -> list[float]:
        """Return the file's rewards of one group.

        A call whose process is killed is made again.

        Errors: `UserError` naming the file and its line where the function raises, gives anything but one finite number
        a response, does not return in time, or ends its process. CancelledError: closed before the call began.
        """
        with self._explained(self._function, self._limit):
            if self._function == "reward":
                return self._pool.submit(user_code.call_reward, self._path, list(responses), example).result()
            queries = [prompt + response for response in responses]
            prompts, labels = [prompt] * len(queries), [example.answer] * len(queries)
            return self._pool.submit(user_code.call_reward_func, self._path, queries, prompts, labels).result()

    @contextmanager
    def _explained(self, what: str, limit: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise UserError(
                f"{self._path}: {what} took over {limit:g} s; make it faster or raise rewards.call_timeout"
            ) from error
        except (WorkerDied, WorkerKilled) as error:
            raise UserError(f"{self._path}: {what} ended its process: {error}") from error
