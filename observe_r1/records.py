"""What flows between the rooms: `Example` → `Prompt` → `Completion` → `Group` → `TrainingGroup`.

A record only gains fields on its way, and nothing derives one of them twice. Who fills them:

    Example         `data`: a row on disk, read
    Prompt          `model.encoding`: the example as the model takes it
    Completion      `rollout`: one sampled response
    Group           `training.sampler`: rewards, and what `objective.scored_advantages` makes of them
    TrainingGroup   `training.loop`: token by token, what `objective.policy_loss` takes

Shapes use G for the responses of a group, P for a prompt's tokens, R for one response's tokens and T for the tokens of
all G responses of a group laid end to end (T = ΣR, in order, each with its end-of-turn token if it was sampled).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

ImageSource = str | bytes
"""An image not yet opened: an absolute path, a `data:` URI, an `http(s)` URL, or the encoded bytes themselves."""

Message = dict[str, Any]
"""One chat turn: `{"role": str, "content": [{"type": "text", "text": str} | {"type": "image"}, …]}`; an image may have
size limits of its own, `min_pixels` and `max_pixels`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its images, its gold answer, and what is known of its difficulty."""

    id: str
    messages: tuple[Message, ...]
    """The chat up to the response; each `{"type": "image"}` part stands for the next of `images`."""
    images: tuple[ImageSource, ...]
    answer: str
    response: str | None = None
    """The demonstrated assistant turn, if the row has one (supervised fine-tuning)."""
    source: str = ""
    difficulty: float | None = None
    """Share of a measuring model's responses that were wrong, in [0, 1]."""
    complexity: float | None = None
    """Mean length of a measuring model's responses, in tokens."""
    origin: str = ""
    """File and row, for error messages: `train.jsonl row 7`."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of the row, by name: those of `data.columns`, as JSON values."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True, kw_only=True)
class Prompt:
    """An `Example` as the model takes it."""

    ids: Tensor
    """(P,) int64, image placeholders expanded to one token per merged visual patch."""
    token_types: Tensor
    """(P,) int64: 0 text, 1 image."""
    pixel_values: Tensor | None = None
    """(patches, channels · temporal · patch²) float32; None without images."""
    image_grid: Tensor | None = None
    """(images, 3) int64: frames, height and width of each image in patches; None without images."""
    image_digests: tuple[bytes, ...] = ()
    """One per image, made where the prompt is encoded; two images that the model sees alike have the same one."""
    text: str = ""
    """The chat as the model's template writes it, one placeholder per image."""
    stream: int = 0
    """Which draw of the run this is. With `Sampling.seed` and the response's number it seeds the random stream of a
    response, so that the response does not depend on what else is in the batch."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn."""

    n: int = 1
    """Responses per prompt (G)."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    max_new_tokens: int = 1024
    stop: tuple[str, ...] = ()
    """A response ends with the token that completes any of these strings."""
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One sampled response."""

    ids: Tensor
    """(R,) int64, R ≥ 1, with the end-of-turn token if it was sampled."""
    logprobs: Tensor
    """(R,) float32: natural log-probability of each token under the distribution really sampled from."""
    text: str
    """`ids` decoded without special tokens."""
    version: int
    """Of the weights that drew its first token, as `WeightSync.publish` numbered them; no token is older."""
    finish: Literal["stop", "length"]
    """`stop` for an end-of-turn token or a stop string, `length` when cut off at the limit."""
    versions: Tensor | None = None
    """(R,) int64, of the weights that drew each token, never falling; None if all tokens have `version`."""

    @property
    def tokens(self) -> int:
        """Its length."""
        return len(self.ids)

    @property
    def token_versions(self) -> Tensor:
        """(R,) int64: of the weights that drew each token."""
        return self.ids.new_full(self.ids.shape, self.version).long() if self.versions is None else self.versions


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """An example with its G scored completions and what they teach (`observe_r1.objective.scored_advantages`)."""

    example: Example
    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: Tensor
    """(G,) float32: the weighted sum of `parts`, without bonus."""
    correct: Tensor
    """(G,) bool; a tensor of its own, never read back from the rewards."""
    bonus: Tensor
    """(G,) float32, on top of `rewards`."""
    weight: float
    """The dynamic weight; 1 if `objective.dynamic_weight` is off."""
    advantages: Tensor
    """(G,) float32: the estimator's, of rewards plus bonus, times `weight`; not whitened yet (that takes a rollout)."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """(G,) float32 by reward name, unweighted."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response."""
        return [len(completion.ids) for completion in self.completions]

    @property
    def version(self) -> int:
        """Of the oldest weights that drew any of its tokens."""
        return min(completion.version for completion in self.completions)

    @property
    def informative(self) -> bool:
        """Whether the responses teach something: some advantage is not 0.

        With the dynamic weight, a group whose answers are all right or all wrong is not informative: its weight is 0.
        Without it, the bonus or another reward can still tell such responses apart.
        """
        return bool(self.advantages.any())


@dataclass(frozen=True, slots=True, eq=False)
class TrainingGroup:
    """A group, and streams of one float32 value per response token, (T,) each, that the loss takes."""

    group: Group
    token_advantages: Tensor
    """The group's advantages, whitened and minus the KL still to come if the settings ask for it."""
    loss_weights: Tensor
    """Share of each token in the batch's loss: its share under the aggregation of the *whole* batch, times its
    importance weight and mask. So the loss is a plain sum, however the batch is split."""
    sampler_logprobs: Tensor
    """The completions' log-probabilities, end to end."""
    old_logprobs: Tensor | None = None
    """Log-probabilities that the ratio is taken against; None for the policy's own, detached (a ratio of 1)."""
    reference_logprobs: Tensor | None = None
    """Log-probabilities under the reference model; None without a KL term in the loss."""
    kl_weights: Tensor | None = None
    """Share of each token in the KL term, coefficient included; None without `reference_logprobs`."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """Whole groups: one optimizer step."""

    groups: tuple[TrainingGroup, ...]
    """All have the same optional streams."""
    learning_rate: float
    """Of this step."""
