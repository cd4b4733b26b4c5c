"""What every sampler offers, local or remote."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from observe_r1.errors import UserError
from observe_r1.records import Completion, Prompt, Sampling

OnGroup = Callable[[int, list[Completion]], None]


class RefusedPromptError(UserError):
    """A prompt that an engine cannot take, whatever else it is given: too many images, say. `index` is its place."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class Engine(Protocol):
    """Draws responses to prompts."""

    version: int
    """Of the weights it samples with; every completion bears it."""
    finished: int
    """Responses that have ended since it was made; it grows while `generate` runs, for another thread to show."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions a prompt, in the order of `prompts`.

        `on_group(index, completions)` is called as soon as a prompt's last response ends, so that scoring can start
        while others are still sampled.

        Errors: `RefusedPromptError`, before anything is sampled.
        """
        ...

    def close(self) -> None:
        """Give back for good what the engine alone holds."""
        ...


@runtime_checkable
class CopyingEngine(Engine, Protocol):
    """An engine with weights of its own: at first those on disk, then copies of the policy's."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over `weights`, by their names in an ordinary checkpoint, and wake up."""
        ...

    def sleep(self) -> None:
        """Free what is not needed until the next `load_weights`."""
        ...
