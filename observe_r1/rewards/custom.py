"""Rewards of the user's own, by what the settings call them: a Python file or the address of a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.registry import REGISTRY
from observe_r1.rewards.reward_file import RewardFile
from observe_r1.rewards.reward_server import RewardServer
from observe_r1.web import without_password

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

_TAKEN = frozenset({"mean", "std", "bonus"})
"""What other metrics of the rewards are called."""


class OwnReward(AbstractContextManager["OwnReward"], Protocol):
    """A reward for whole groups; entering it checks it, leaving it ends what it runs."""

    def rewards(self, responses: Sequence[str], example: Example, prompt: str) -> list[float]:
        """Return one number a response, from any thread, within a time limit. Errors: `UserError`."""
        ...


def own_rewards(settings: RewardSettings) -> dict[str, OwnReward]:
    """Return the user's own rewards by the names in the settings, not yet entered."""
    own: dict[str, OwnReward] = {}
    for name in settings.functions:
        if _is_address(name):
            own[name] = RewardServer(name, settings)
        elif name not in REGISTRY["reward"]:
            own[name] = RewardFile(name, settings)
    return own


def part_names(names: Iterable[str]) -> dict[str, str]:
    """Return what each reward is called in metrics and rollouts: a file's stem, a server's host, port and path.

    Errors: `UserError` where two would be called alike, or one like a reward or metric of ours.
    """
    parts: dict[str, str] = {}
    for name in names:
        part = _part_name(name)
        same = next((other for other, taken in parts.items() if taken == part), None)
        if same is not None or (part != name and part in _TAKEN | REGISTRY["reward"].keys()):
            other = "a metric of ours" if same is None else repr(without_password(same))
            raise UserError(
                f"rewards.functions: {without_password(name)!r} and {other} would both be called {part!r}; rename one"
            )
        parts[name] = part
    return parts


def _part_name(name: str) -> str:
    if _is_address(name):
        try:
            address = urlsplit(name)
        except ValueError as error:
            raise UserError(f"rewards.functions: {without_password(name)!r} is no address: {error}") from error
        return address.netloc.rpartition("@")[2] + address.path.rstrip("/")
    return Path(name).stem if name.endswith(".py") else name


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))
