"""What every sampler offers, local or remote."""

from collections.abc import Callable, Sequence
from typing import Protocol

from observe_r1.records import Completion, Prompt, Sampling

OnGroup = Callable[[int, list[Completion]], None]


class Engine(Protocol):
    """Draws responses to prompts."""

    version: int
    """Of the weights it samples with; every completion bears it."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions a prompt, in the order of `prompts`.

        `on_group(index, completions)` is called as soon as a prompt's last response ends, so that scoring can start
        while others are still sampled.
        """
        ...
