"""The policy's one forward: a pack of groups in, log-probability and entropy of every response token out."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from observe_r1.config import OptimizerSettings
from observe_r1.model.adapters import without_adapters
from observe_r1.model.families import shares_prefix
from observe_r1.model.forward import encode_images, hidden_states, zero_of_blank_image
from observe_r1.model.head import head_logits
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.policy.packing import Pack, build_pack, plan_packs, token_place
from observe_r1.records import Group


class LogprobModel:
    """A model as a source of log-probabilities: the policy, or the reference of a KL term.

    It computes with `vlm`'s current weights, in the type that they are held in.

    Args:
        vlm: The model.
        settings: Token budget of a pack, and rows of logits at once.
        temperature: Of the distribution that is scored, as responses were sampled under it.
        adapters: False scores with the weights under LoRA adapters, which never change: a reference model that takes
            no memory of its own.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        settings: OptimizerSettings,
        *,
        temperature: float = 1.0,
        adapters: bool = True,
    ) -> None:
        self.vlm = vlm
        self.adapters = adapters
        self.budget = settings.tokens_per_pack
        self.score = TokenLogprobs(vlm, temperature, settings.head_chunk)
        """`score(pack)` returns its `TokenScores`, with gradient if the caller wants one."""

    @torch.no_grad()
    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group's response tokens.

        Returns:
            One (T,) float32 tensor a group, in nats, on the CPU.
        """
        sizes = [sum(group.lengths) for group in groups]
        scored: Tensor | None = None
        with nullcontext() if self.adapters else without_adapters(self.vlm.model):
            for pack in self.packs(groups):
                values = self.score(pack, entropy=False).logprobs
                scored = values.new_zeros(sum(sizes)) if scored is None else scored
                by_group = scored.split(sizes)
                places = [by_group[span.group][token_place(groups[span.group], span)] for span in pack.spans]
                if pack.share:
                    for place, part in zip(places, values.split([len(place) for place in places]), strict=True):
                        place.copy_(part)
        # Read when all are queued: a GPU has the next pack while this one's is put together.
        return () if scored is None else self.joined(scored).cpu().split(sizes)

    def packs(self, groups: Sequence[Group]) -> Iterator[Pack]:
        """Yield `groups` packed within the token budget (`plan_packs`), each pack built when it is asked for.

        A pack's layout keeps the masks of a forward: those of a whole rollout at once would fill the memory.
        """
        for spans in plan_packs(groups, self.budget, shares_prefix(self.vlm.model)):
            yield build_pack(self.vlm, groups, spans)

    def joined(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all who have a part of the packs: here there is only one."""
        return values


class TokenScores(NamedTuple):
    """Scores of the S response tokens of a pack."""

    logprobs: Tensor
    """(S,) float32 (float64 for a float64 model), in nats."""
    entropy: Tensor | None
    """(S,) of the distribution that predicts each token, in nats; a metric, without gradient. None if not asked for."""


class TokenLogprobs(nn.Module):
    """Runs the image tower once per prompt, the text model once per pack, and the head on predicting positions only.

    Sharding wraps this module's `forward`, and nothing calls the model's parts around it.

    Args:
        vlm: The model.
        temperature: Logits are divided by it.
        chunk: Rows of logits, one per response token, that exist at once.
    """

    _suppressed_ids: Tensor

    def __init__(self, vlm: VisionLanguageModel, temperature: float, chunk: int) -> None:
        super().__init__()
        self.vlm = vlm
        self.model = vlm.model
        self.temperature = temperature
        self.chunk = chunk
        self.register_buffer("_suppressed_ids", torch.tensor(vlm.suppressed_ids, dtype=torch.long, device=vlm.device))

    def forward(self, pack: Pack, *, entropy: bool = True) -> TokenScores:
        """Score the response tokens of a pack under the distribution that is sampled from.

            log π = log_softmax(logits / temperature), image and video placeholders excluded

        Args:
            pack: Prompts and responses, laid out.
            entropy: Whether to compute the entropy, too, in three more passes over the logits.
        """
        images = encode_images(self.vlm, pack.prompts)
        blank = zero_of_blank_image(self.model) if pack.blank_image else None
        hidden = hidden_states(
            self.model, pack.ids, pack.positions, images=images, layout=pack.layout, blank=blank
        ).flatten(0, 1)
        logprobs, entropies = [], []
        chunks = pack.predictors.split(self.chunk), pack.targets.split(self.chunk)
        for predictors, targets in zip(*chunks, strict=True):
            # Recomputing a chunk's logits in the backward pass keeps (chunk, vocabulary) the largest tensor there is.
            logprob, each = checkpoint(self._head, hidden[predictors], targets, entropy, use_reentrant=False)
            logprobs.append(logprob)
            entropies.append(each)
        return TokenScores(torch.cat(logprobs), torch.cat(entropies) if entropy else None)

    def _head(self, hidden: Tensor, targets: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Return log-probability and entropy of (S,) targets that (S, width) hidden states predict."""
        logits = head_logits(self.model, hidden)
        # Finite, so that a suppressed token adds 0 · log 0 = 0 to the entropy.
        logits.div_(self.temperature).index_fill_(1, self._suppressed_ids, torch.finfo(logits.dtype).min)
        logprobs = logits.log_softmax(dim=-1)
        chosen = logprobs.gather(1, targets[:, None])[:, 0]
        if not with_entropy:
            return chosen, None
        # Last: recomputation stops once it has what the backward pass needs.
        with torch.no_grad():
            entropy = -logprobs.exp().mul_(logprobs).sum(dim=-1)
        return chosen, entropy
