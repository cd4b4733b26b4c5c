"""What every sampler offers, local or remote, and how a token is drawn.

An engine's class also has `from_settings(vlm, rollout, data, dtype, training, note)`, which returns the engine that the
section `rollout` describes; see `VLLMEngine.from_settings`.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from observe_r1.config import SamplerSettings
from observe_r1.errors import UserError
from observe_r1.records import Completion, Prompt, Sampling

OnGroup = Callable[[int, list[Completion]], None]
"""Takes the index of a prompt and its completions."""

Done = Callable[[list[Completion]], None]
"""Takes the completions of a prompt, once all have ended."""


class RefusedPromptError(UserError):
    """A prompt that an engine cannot take, whatever else is in the batch: it has too many images, say."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        """Of the prompt, in the call that it was part of; in `SteppedEngine.step` its number."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.index, *self.args)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training takes of a GPU's memory, for an engine that has to fit beside it."""

    held: dict[str, int]
    """What is there before the engine starts, by name: weights, their masters, a reference model."""
    coming: dict[str, int]
    """What is added later and stays, by name: the optimizer's moments, image features."""
    update: dict[str, int]
    """What an update adds and gives back, by name: gradients."""


def unheard(line: str) -> None:
    """Take a line that nobody is told."""


class Engine(Protocol):
    """Draws responses to prompts."""

    version: int
    """Of the weights that it samples with; every completion records it."""
    finished: int
    """Responses that have ended since the engine was made; grows while `generate` runs, for another thread to show."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions per prompt, in the order of `prompts`.

        Args:
            prompts: Encoded questions.
            sampling: How responses are drawn.
            on_group: Called as soon as a prompt's last response ends, so that scoring can start while others are still
                sampled.

        Raises:
            RefusedPromptError: The engine cannot take one of the prompts; nothing has been sampled.
        """
        ...

    def close(self) -> None:
        """Give back for good what only the engine holds."""
        ...


class Reply(Protocol):
    """What is graded of a response: of a `Completion`, and of one whose tokens are known to a server alone."""

    @property
    def text(self) -> str:
        """As `Completion.text`."""
        ...

    @property
    def tokens(self) -> int:
        """Its length."""
        ...

    @property
    def finish(self) -> Literal["stop", "length"]:
        """As `Completion.finish`."""
        ...


class WrittenPrompt(Protocol):
    """What every prompt has, whoever answers it."""

    @property
    def text(self) -> str:
        """As `Prompt.text`."""
        ...


AnyPrompt = TypeVar("AnyPrompt", bound=WrittenPrompt)
_Taken = TypeVar("_Taken", bound=WrittenPrompt, contravariant=True)


class Answering(Protocol[_Taken]):
    """An engine, or a server elsewhere, that is asked and never trained."""

    finished: int
    """As `Engine.finished`."""

    def generate(
        self,
        prompts: Sequence[_Taken],
        sampling: Sampling,
        on_group: Callable[[int, Sequence[Reply]], None] | None = None,
    ) -> Sequence[Sequence[Reply]]:
        """As `Engine.generate`."""
        ...


class SteppedEngine(Engine, Protocol):
    """An engine that prompts enter and leave one by one, while others are being answered.

    Between two steps the weights may change: responses in flight go on under the new ones, with the keys and values
    that the old ones computed, and each of their tokens bears the version of the weights that drew it.
    """

    @property
    def rows(self) -> int:
        """Responses that it decodes at once, at most; beyond them prompts wait."""
        ...

    @property
    def unfinished(self) -> int:
        """Responses that have been asked for and have not ended."""
        ...

    def add(self, prompt: Prompt, sampling: Sampling, done: Done) -> int:
        """Take a prompt in, which steps will answer.

        Args:
            prompt: The encoded question.
            sampling: How `sampling.n` responses are drawn.
            done: Called in the step in which the last of them ends.

        Returns:
            Its number, of no other prompt of this engine.

        Raises:
            RefusedPromptError: The engine cannot take it.
        """
        ...

    def step(self) -> None:
        """Draw a few tokens of each response in flight, and hand over the groups that have ended.

        Raises:
            RefusedPromptError: An engine in another process does not take a prompt; `index` is its number.
        """
        ...

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget prompts that `add` took in; those that are done already stay done."""
        ...


def generate_in_steps(
    engine: SteppedEngine, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None
) -> list[list[Completion]]:
    """Step `engine` until all `prompts` are answered, beside whatever else is in flight; see `Engine.generate`."""
    numbers: list[int] = []
    groups: dict[int, list[Completion]] = {}

    def done(index: int, completions: list[Completion]) -> None:
        groups[index] = completions
        if on_group is not None:
            on_group(index, completions)

    try:
        for index, prompt in enumerate(prompts):
            numbers.append(engine.add(prompt, sampling, partial(done, index)))
        while len(groups) < len(prompts):
            engine.step()
    except BaseException as error:
        engine.drop(number for index, number in enumerate(numbers) if index not in groups)
        if isinstance(error, RefusedPromptError):
            index = numbers.index(error.index) if error.index in numbers else len(numbers)
            raise RefusedPromptError(index, str(error)) from error
        raise
    return [groups[index] for index in range(len(prompts))]


@runtime_checkable
class CopyingEngine(Engine, Protocol):
    """An engine with weights of its own: at first those on disk, later copies of the policy's."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy all weights, by their names in an ordinary checkpoint, and wake up.

        Args:
            weights: On any device and in any type; they may be made one by one, while they are copied.
        """
        ...

    def sleep(self) -> None:
        """Free what is not needed until the next `load_weights`."""
        ...


def sampling_of(settings: SamplerSettings, *, n: int, seed: int) -> Sampling:
    """Return how `n` responses per prompt are drawn, as `settings` say, from `seed`."""
    return Sampling(
        n=n,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=settings.max_new_tokens,
        stop=settings.stop,
        seed=seed,
    )


def response_uniforms(sampling: Sampling, stream: int, number: int) -> Tensor:
    """Return one response's random numbers, which depend on nothing else in the batch.

    Args:
        sampling: Has the seed and the longest response.
        stream: Of the prompt.
        number: Of the response, among those to the prompt.

    Returns:
        (max_new_tokens,) float64 in [0, 1), one per token.
    """
    digest = hashlib.blake2b(f"{sampling.seed}/{stream}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)


def next_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling, suppressed_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at `uniforms`.

    All tensors are on the same device, and nothing waits for it.

    Args:
        logits: (B, vocabulary).
        uniforms: (B,) float64.
        sampling: How to draw.
        suppressed_ids: (F,) int64, tokens of probability 0.

    Returns:
        Tokens (B,) int64 and their log-probabilities (B,) float32 under the distribution drawn from: after temperature,
        top-k, top-p and the ban on `suppressed_ids`. Greedy decoding (temperature 0) is certain of its token:
        log-probability 0.
    """
    logits = logits.float().index_fill(1, suppressed_ids, float("-inf"))
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=1)
        return tokens, torch.zeros_like(tokens, dtype=torch.float32)
    logprobs = _truncate(logits / sampling.temperature, sampling).log_softmax(dim=1)
    cumulative = logprobs.double().exp().cumsum(dim=1)
    # Scaled by the total, which rounding leaves a hair off 1; `right` skips tokens of probability 0.
    targets = uniforms[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True).clamp(max=logits.shape[1] - 1)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]


def _truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    """Set what top-k and then top-p leave out to -inf; ties at the k-th place all stay."""
    if 0 < sampling.top_k < logits.shape[1]:
        threshold = logits.topk(sampling.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=1, descending=True)
        probabilities = ordered.softmax(dim=1)
        beyond = probabilities.cumsum(dim=1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), float("-inf"))
    return logits
