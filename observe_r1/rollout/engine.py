"""What every sampler offers, local or remote."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from observe_r1.config import SamplerSettings
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


def sampling_of(settings: SamplerSettings, *, n: int, seed: int) -> Sampling:
    """Return how `settings` say that `n` responses a prompt are drawn, from `seed`."""
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
    """Return one response's random numbers: (max_new_tokens,) float64 in [0, 1), one a token.

    They depend on seed, prompt and the response's number alone, never on what else is in the batch.
    """
    digest = hashlib.blake2b(f"{sampling.seed}/{stream}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)


def next_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling, suppressed_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at `uniforms`.

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
    """Remove what top-k and then top-p leave out; ties at the k-th place all stay."""
    if 0 < sampling.top_k < logits.shape[1]:
        threshold = logits.topk(sampling.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=1, descending=True)
        probabilities = ordered.softmax(dim=1)
        beyond = probabilities.cumsum(dim=1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), float("-inf"))
    return logits
