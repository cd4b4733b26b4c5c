"""Rewards of the user's own, by what the settings call them: the path of a Python file, or the address of a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
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
"""Names that other metrics of the rewards have."""


class CustomReward(AbstractContextManager["CustomReward"], Protocol):
    """A reward for whole groups. Entering it checks it, leaving it ends what it runs."""

    def rewards(self, responses: Sequence[str], example: Example, prompt: str) -> list[float]:
        """Return one number per response, within a time limit; may be called from any thread.

        Raises:
            UserError: The reward failed, took too long, or gave anything but one number per response.
            concurrent.futures.CancelledError: It was left before the call began.
        """
        ...


def custom_rewards(settings: RewardSettings) -> dict[str, CustomReward]:
    """Return the user's own rewards by their names in the settings, not yet entered."""
    rewards: dict[str, CustomReward] = {}
    for name in settings.functions:
        if _is_address(name):
            rewards[name] = RewardServer(name, settings)
        elif name not in REGISTRY["reward"]:
            rewards[name] = RewardFile(name, settings)
    return rewards


def reward_file_digests(settings: RewardSettings) -> dict[str, str]:
    """Return the SHA-256 digest of each reward file, by its name in the settings."""
    files = [name for name, reward in custom_rewards(settings).items() if isinstance(reward, RewardFile)]
    return {name: sha256(Path(name).expanduser().read_bytes()).hexdigest() for name in files}


def part_names(names: Iterable[str]) -> dict[str, str]:
    """Return what each reward is called in metrics and rollouts: a file's stem; a server's host, port and path.

    Raises:
        UserError: Two would have the same name, or one that of a built-in reward or metric.
    """
    parts: dict[str, str] = {}
    for name in names:
        part = _part_name(name)
        same = next((other for other, taken in parts.items() if taken == part), None)
        if same is not None or (part != name and part in _TAKEN | REGISTRY["reward"].keys()):
            other = "a built-in metric" if same is None else repr(without_password(same))
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
            raise UserError(f"rewards.functions: {without_password(name)!r} is not an address: {error}") from error
        return address.netloc.rpartition("@")[2] + address.path.rstrip("/")
    return Path(name).stem if name.endswith(".py") else name


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))
