"""The inside of a reward file's worker process: imports the user's file and calls its function.

Whatever the file does wrong is told in one line with the place in it.
"""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards.returned import checked_rewards

SIGNATURES = {
    "reward_func": ("queries", "prompts", "labels"),
    "reward": ("response", "answer", "example"),
}
"""The functions of which a reward file defines one, with their parameters."""

_MODULE = "observe_r1_reward_file"
"""What the file is imported as: its own name could hide a library's."""


def load(path: str) -> str:
    """Import the file and return the name of its function. Errors: `UserError` where there is not exactly one."""
    return _function(path)[0]


def call_reward_func(path: str, queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
    """Return what the file's `reward_func` gives a group."""
    name, function = _function(path)
    with _explained(path):
        values = function(queries, prompts, labels)
    return checked_rewards(values, len(queries), f"{path}: {name}")


def call_reward(path: str, responses: list[str], example: Example) -> list[float]:
    """Return what the file's `reward` gives each response of a group."""
    name, function = _function(path)
    with _explained(path):
        values = [function(response, example.answer, example) for response in responses]
    return checked_rewards(values, len(responses), f"{path}: {name}")


@cache
def _function(path: str) -> tuple[str, Callable[..., Any]]:
    with _explained(path):
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
    # Modules beside the file can be imported, but hide none of Python's own.
    sys.path.append(str(Path(path).resolve().parent))
    module = sys.modules[_MODULE] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _explained(path: str) -> Iterator[None]:
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
