"""The least arithmetic that each side must do, counted from the model's configuration.

A multiply and an add are two operations. Causal attention needs half of its square. A backward pass takes twice its
forward. Norms, activations, rotary embedding, the optimizer, recomputation and memory traffic are not counted. The
ratio of two counts bounds what the shared prefix saves, not what another way to compute the same could save.
"""

from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn
from transformers import PreTrainedModel

from racing.work import Script


@dataclass(frozen=True, slots=True)
class Costs:
    """Operations of one forward pass through parts of a model."""

    text_token: float
    """A token through all layers of the text model, without attention scores."""
    text_pair: float
    """A token attending to a token, in all layers."""
    head_token: float
    """The head on one position."""
    image: float
    """One image through the tower."""

    def prompt(self, tokens: int) -> float:
        """Return the operations of a prompt of so many tokens, its image included."""
        return self.image + tokens * self.text_token + tokens**2 / 2 * self.text_pair

    def response(self, tokens: int, prompt: int) -> float:
        """Return the operations of a response that sees a prompt of so many tokens."""
        return tokens * self.text_token + (tokens * prompt + tokens**2 / 2) * self.text_pair


def costs(model: PreTrainedModel, patches: int) -> Costs:
    """Count for a Qwen2.5-VL `model` and images of `patches` patches each."""
    text, tower = model.config.text_config, model.config.vision_config
    layers = model.model.language_model.layers
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    window = min(patches, (tower.window_size // tower.patch_size) ** 2)
    full = len(tower.fullatt_block_indexes)
    pairs = patches * (full * patches + (tower.depth - full) * window)
    merged = patches // tower.spatial_merge_size**2
    return Costs(
        text_token=2 * _weights(layers),
        text_pair=4 * head_width * text.num_attention_heads * text.num_hidden_layers,
        head_token=2 * text.hidden_size * text.vocab_size,
        image=2 * patches * (_weights(model.model.visual.blocks) + _weights(model.model.visual.patch_embed))
        + 2 * merged * _weights(model.model.visual.merger)
        + 4 * tower.hidden_size * pairs,
    )


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of the two sides for one script of responses to prompts of `prompt` tokens."""

    costs: Costs
    prompt: int
    script: Script
    tower_trained: bool = True
    head_on_prompts: bool = True
    """The peer's."""

    def update(self, informative: Tensor | None = None) -> tuple[float, float]:
        """Return (theirs, ours) of an update: theirs over all groups, padded to the longest response, ours over some.

        Args:
            informative: (P,) bool, the groups of ours; all by default.
        """
        backward = 2 if self.tower_trained else 0
        image = self.costs.image * (1 + backward)
        text = self.costs.prompt(self.prompt) - self.costs.image
        groups = self.script.lengths.tolist()
        longest = max(chain(*groups))
        scored = longest + (self.prompt if self.head_on_prompts else 0)
        row = image + 3 * (text + self.costs.response(longest, self.prompt) + scored * self.costs.head_token)
        theirs = row * self.script.lengths.numel()
        kept = groups if informative is None else self.script.lengths[informative].tolist()
        # With the tower frozen, features are kept from sampling: no image is computed at all.
        ours = sum(
            (image if self.tower_trained else 0)
            + 3 * text
            + sum(3 * (self.costs.response(n, self.prompt) + n * self.costs.head_token) for n in lengths)
            for lengths in kept
        )
        return theirs, ours

    def sampling(self) -> tuple[float, float]:
        """Return (theirs, ours) of prefill and decoding: theirs until the slowest row has ended."""
        groups = self.script.lengths.tolist()
        prefill, longest = self.costs.prompt(self.prompt), max(chain(*groups))

        def decode(tokens: int) -> float:
            return self.costs.response(tokens, self.prompt) + tokens * self.costs.head_token

        theirs = (prefill + decode(longest)) * self.script.lengths.numel()
        ours = sum(prefill + sum(decode(n) for n in lengths) for lengths in groups)
        return theirs, ours

    def step(self) -> tuple[float, float]:
        """Return (theirs, ours) of sampling and an update; ours on the groups neither all right nor all wrong."""
        mixed = self.script.correct.any(dim=1) & ~self.script.correct.all(dim=1)
        sampling, update = self.sampling(), self.update(mixed)
        return sampling[0] + update[0], sampling[1] + update[1]


def _weights(part: nn.Module) -> int:
    """Return the elements of the matrices in `part`: what one token or patch is multiplied with."""
    return sum(p.numel() for p in part.parameters() if p.dim() > 1)
