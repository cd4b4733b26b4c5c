"""The policy's one forward: a packed batch in, log-probability and entropy of every response token out."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from observe_r1.config import OptimizerSettings
from observe_r1.model.adapters import without_adapters
from observe_r1.model.families import shares_prefix
from observe_r1.model.forward import encode_images, hidden_states
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.policy.packing import Pack, build_pack, plan_packs
from observe_r1.records import Group


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """What the model says of the S response tokens of a pack."""

    logprobs: Tensor
    """(S,) float32 (float64 for a float64 model), in nats."""
    entropy: Tensor
    """(S,) of the distribution that predicts each token, in nats; a metric, without gradient."""


class TokenLogprobs(nn.Module):
    """Image tower once a prompt, text model once a pack, head on the predicting positions only.

    Sharding wraps this module's `forward`, and nothing calls the model's parts around it.
    """

    def __init__(self, vlm: VisionLanguageModel, temperature: float, chunk: int) -> None:
        super().__init__()
        self.vlm = vlm
        self.model = vlm.model
        self.temperature = temperature
        self.chunk = chunk
        self.register_buffer("_suppressed_ids", torch.tensor(vlm.suppressed_ids, dtype=torch.long, device=vlm.device))

    def forward(self, pack: Pack) -> TokenScores:
        """Score the response tokens of `pack` under the distribution that is sampled from: logits over temperature,
        placeholder tokens excluded."""
        images = encode_images(self.vlm, pack.prompts)
        hidden = hidden_states(self.model, pack.ids, pack.positions, images=images, layout=pack.layout).flatten(0, 1)
        logprobs, entropies = [], []
        chunks = pack.predictors.split(self.chunk), pack.targets.split(self.chunk)
        for predictors, targets in zip(*chunks, strict=True):
            # Recomputing a chunk's logits in the backward pass keeps (chunk, vocabulary) the largest tensor there is.
            logprob, entropy = checkpoint(self._head, hidden[predictors], targets, use_reentrant=False)
            logprobs.append(logprob)
            entropies.append(entropy)
        return TokenScores(torch.cat(logprobs), torch.cat(entropies))

    def _head(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.lm_head(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Finite, so that a suppressed token adds 0 · log 0 = 0 to the entropy.
        logits.div_(self.temperature).index_fill_(1, self._suppressed_ids, torch.finfo(logits.dtype).min)
        logprobs = logits.log_softmax(dim=-1)
        chosen = logprobs.gather(1, targets[:, None])[:, 0]
        # Last: recomputation stops once it has what the backward pass needs.
        with torch.no_grad():
            entropy = -logprobs.exp().mul_(logprobs).sum(dim=-1)
        return chosen, entropy


class GroupScorer:
    """Scores packs of groups with `vlm`'s current weights, under `temperature`, computing in `dtype`.

    With `adapters` off it scores with the weights under LoRA adapters, which never change: a reference model that
    takes no memory of its own.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        settings: OptimizerSettings,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        adapters: bool = True,
    ) -> None:
        self.vlm = vlm
        self.adapters = adapters
        self.budget = settings.tokens_per_pack
        self.dtype = dtype
        self.module = TokenLogprobs(vlm, temperature, settings.head_chunk)

    def packs(self, groups: Sequence[Group]) -> Iterator[Pack]:
        """Yield `groups` packed into sequences within the token budget (`plan_packs`), each built when it is its turn.

        A pack's layout keeps masks for all of a forward's layers: those of a whole rollout at once would fill memory.
        """
        for spans in plan_packs(groups, self.budget, shares_prefix(self.vlm.model)):
            yield build_pack(self.vlm, groups, spans)

    def score(self, pack: Pack) -> TokenScores:
        """Score one pack, with gradient where the caller wants one."""
        with torch.autocast(self.vlm.device.type, dtype=self.dtype, enabled=self.dtype == torch.bfloat16):
            return self.module(pack)

    @torch.no_grad()
    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group's response tokens: one (T,) tensor a group, on the CPU."""
        parts: list[list[Tensor]] = [[] for _ in groups]
        with nullcontext() if self.adapters else without_adapters(self.vlm.model):
            for pack in self.packs(groups):
                sizes = [sum(groups[s.group].lengths[s.first : s.last]) for s in pack.spans]
                for span, part in zip(pack.spans, self.score(pack).logprobs.split(sizes), strict=True):
                    parts[span.group].append(part)
        # Read when all are queued: a GPU has the next pack while this one's is put together.
        return tuple(torch.cat(part).cpu() for part in parts)
