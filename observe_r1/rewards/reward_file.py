"""A reward in a Python file of the user's own: called in worker processes, never in the program itself.

Whatever the file does wrong is told in one line that names the place in it.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.registry import beside
from observe_r1.rewards.validation import validated_rewards
from observe_r1.rewards.worker import START_LIMIT, WorkerDied, WorkerKilled, WorkerPool

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

SIGNATURES = {
    "reward_func": ("queries", "prompts", "labels"),
    "reward": ("response", "answer", "example"),
}
"""The functions of which a reward file defines one, with their parameters."""

_MODULE = "observe_r1_reward_file"
"""What the file is imported as: its own name could hide a library's."""


class BadQueryError(UserError):
    """What is asked for, and not the reward, is at fault."""


class RewardFile:
    """The reward that a file defines, in processes of its own. A context manager: entering it imports the file.

    The file defines `reward_func(queries, prompts, labels)`, which takes lists with one entry per response and returns
    one number each; or `reward(response, answer, example)`, which returns a number. A query is the prompt with its
    response.

    Args:
        name: The file's path.
        settings: Number of processes, and time limit.

    Raises:
        UserError: On entering, the file cannot be imported, or does not define exactly one such function.
    """

    def __init__(self, name: str, settings: RewardSettings) -> None:
        self._path = str(Path(name).expanduser())
        self._limit = settings.call_timeout
        self._pool = WorkerPool(settings.workers, settings.call_timeout)
        self._function = ""

    def __enter__(self) -> Self:
        path = Path(self._path)
        if not path.is_file():
            meant = beside(path, lambda each: each.suffix == ".py")
            raise UserError(f"reward file {self._path!r}: no such file{meant}, looked for in {Path.cwd()}")
        with ExitStack() as stack:
            stack.enter_context(self._pool)
            limit = max(START_LIMIT, self._limit)
            with self._one_line_errors("importing it", limit):
                self._function = self._pool.prepare(import_file, self._path, timeout=limit)[0]
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def rewards(self, responses: Sequence[str], example: Example, prompt: str) -> list[float]:
        """Return the file's rewards of one group. A call whose process is killed is repeated.

        Raises:
            UserError: The function raised, gave anything but one finite number per response, did not return in time,
                or ended its process; with the file, and the line if there is one.
            concurrent.futures.CancelledError: The reward was left before the call began.
        """
        if self._function == "reward":
            return self._called(call_reward, list(responses), [example] * len(responses))
        queries = [prompt + response for response in responses]
        return self._called(call_reward_func, queries, [prompt] * len(queries), [example.answer] * len(queries))

    def rewards_of_queries(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> list[float]:
        """Return the file's rewards of responses to any questions, as a reward server is asked for them.

        Args:
            queries: Each prompt with its response.
            prompts: As many. If the file defines `reward`, its query begins with each.
            labels: As many gold answers.

        Raises:
            BadQueryError: A query does not begin with its prompt.
            UserError: As `rewards`.
            concurrent.futures.CancelledError: The reward was left before the call began.
        """
        if self._function == "reward_func":
            return self._called(call_reward_func, list(queries), list(prompts), list(labels))
        examples = [example_of(prompt, label) for prompt, label in zip(prompts, labels, strict=True)]
        return self._called(call_reward, responses_of(queries, prompts), examples)

    def _called(self, function: Callable[..., list[float]], *args: Any) -> list[float]:
        with self._one_line_errors(self._function, self._limit):
            return self._pool.submit(function, self._path, *args).result()

    @contextmanager
    def _one_line_errors(self, what: str, limit: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise UserError(
                f"{self._path}: {what} took over {limit:g} s; make it faster or raise rewards.call_timeout "
                "(--timeout of `observe-r1 serve-rewards`)"
            ) from error
        except (WorkerDied, WorkerKilled) as error:
            raise UserError(f"{self._path}: {what} ended its process: {error}") from error


def example_of(prompt: str, label: str) -> Example:
    """Return what is known of a question that comes without its row."""
    return Example("", ({"role": "user", "content": [{"type": "text", "text": prompt}]},), (), label)


def responses_of(queries: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Return what follows the prompt in each query.

    Raises:
        BadQueryError: A query does not begin with its prompt.
    """
    for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True), 1):
        if not query.startswith(prompt):
            raise BadQueryError(
                f"query {number} of {len(queries)} does not begin with its prompt, so its response is not known; "
                "send the prompt with the response, or serve a file that defines reward_func"
            )
    return [query[len(prompt) :] for query, prompt in zip(queries, prompts, strict=True)]


# In the worker process


def import_file(path: str) -> str:
    """Import the file; return the name of its function.

    Raises:
        UserError: It raises, or does not define exactly one function of `SIGNATURES`.
    """
    return _function(path)[0]


def call_reward_func(path: str, queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
    """Return what the file's `reward_func` gives a group."""
    name, function = _function(path)
    with _told_in_one_line(path):
        values = function(queries, prompts, labels)
    return validated_rewards(values, len(queries), f"{path}: {name}")


def call_reward(path: str, responses: list[str], examples: list[Example]) -> list[float]:
    """Return what the file's `reward` gives each response to its example."""
    name, function = _function(path)
    with _told_in_one_line(path):
        values = [
            function(response, example.answer, example) for response, example in zip(responses, examples, strict=True)
        ]
    return validated_rewards(values, len(responses), f"{path}: {name}")


@cache
def _function(path: str) -> tuple[str, Callable[..., Any]]:
    with _told_in_one_line(path):
        module = _import(path)
    defined = [name for name in SIGNATURES if callable(getattr(module, name, None))]
    if len(defined) != 1:
        known = " or ".join(f"{name}({', '.join(parameters)})" for name, parameters in SIGNATURES.items())
        found = "reward_func and reward" if defined else "neither reward_func nor reward"
        raise UserError(f"{path} defines {found}; it must define either {known}")
    name = defined[0]
    function = getattr(module, name)
    try:
        inspect.signature(function).bind(*SIGNATURES[name])
    except TypeError as error:
        wanted = f"{name}({', '.join(SIGNATURES[name])})"
        raise UserError(f"{path}: {name}{inspect.signature(function)} cannot be called as {wanted}: {error}") from error
    return name, function


def _import(path: str) -> ModuleType:
    spec = spec_from_file_location(_MODULE, path)
    assert spec is not None and spec.loader is not None
    # Modules beside the file can be imported, but do not hide any of Python's own.
    sys.path.append(str(Path(path).resolve().parent))
    module = sys.modules[_MODULE] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _told_in_one_line(path: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one line that names the place in the file."""
    try:
        yield
    except BaseException as error:  # sys.exit, too, is an error of the file
        raise UserError(f"{path}{_line(path, error)}: {_one_line(error)}") from error


def _line(path: str, error: BaseException) -> str:
    """Return ` line N`, the deepest line of the file that the error came through, if there is one."""
    place = str(Path(path).absolute())
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == place]
    if isinstance(error, SyntaxError) and error.filename == place and error.lineno:
        lines.append(error.lineno)
    return f" line {lines[-1]}" if lines else ""


def _one_line(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}".removesuffix(": ")
