"""What the embedded engine keeps of prompts and responses from one token to the next.

Under any attention a prompt is computed once for all of its responses; under `shared_prefix` it is also stored once,
and responses to other prompts are drawn beside it.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from observe_r1.model.families import shares_prefix
from observe_r1.model.forward import encode_images, hidden_states
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Prompt
from observe_r1.rollout.decode_layout import DecodeLayout, PrefillLayout


class ResponseCache(Protocol):
    """The state of B responses; a step adds one token to each."""

    takes_more: bool
    """Whether prompts enter several at a time, and while responses to others are being drawn."""

    def admit(self, prompts: Sequence[Prompt], positions: Sequence[Tensor], responses: int) -> Tensor:
        """Compute N prompts at their positions (3, P), add `responses` rows for each; last hidden states (N, H)."""
        ...

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Compute one token a row, `ids` and `positions` (B,); hidden states (B, H)."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows` (indices)."""
        ...


def response_cache(vlm: VisionLanguageModel) -> ResponseCache:
    """Return an empty cache of the kind that suits the model's attention."""
    return SharedCache(vlm) if shares_prefix(vlm.model) else CopiedCache(vlm)


class SharedCache:
    """For the `shared_prefix` attention: each prompt is stored once, next to any others."""

    takes_more = True

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = vlm
        self.layout = DecodeLayout()

    def admit(self, prompts: Sequence[Prompt], positions: Sequence[Tensor], responses: int) -> Tensor:
        """See `ResponseCache`; the prompts are packed into one sequence."""
        device = self.vlm.device
        prefill = PrefillLayout([len(p.ids) for p in prompts], device)
        hidden = hidden_states(
            self.vlm.model,
            torch.cat([p.ids for p in prompts])[None].to(device),
            torch.cat(list(positions), dim=1)[:, None].to(device),
            images=encode_images(self.vlm, prompts),
            layout=prefill,
        )
        self.layout.admit(prefill, responses)
        return hidden[0, torch.tensor(prefill.prompts, device=device).cumsum(0) - 1]

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """See `ResponseCache`."""
        self.layout.grow()
        hidden = hidden_states(self.vlm.model, ids[:, None], _on_all_axes(positions), layout=self.layout)
        self.layout.advance()
        return hidden[:, 0]

    def keep(self, rows: Tensor) -> None:
        """See `ResponseCache`."""
        self.layout.keep(rows)


class CopiedCache:
    """For any other attention: transformers' own cache of one prompt, copied for each of its responses.

    Its rows have all seen equally many tokens: a recurrent state could not tell padding from text.
    """

    takes_more = False

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = vlm

    def admit(self, prompts: Sequence[Prompt], positions: Sequence[Tensor], responses: int) -> Tensor:
        """See `ResponseCache`; N is 1, and what was here before is forgotten."""
        (prompt,), (axes,) = prompts, positions
        model, device = self.vlm.model, self.vlm.device
        self.cache = DynamicCache(config=model.config)
        ids, images = prompt.ids[None].to(device), encode_images(self.vlm, prompts)
        hidden = hidden_states(model, ids, axes[:, None].to(device), images=images, cache=self.cache)
        self.keep(torch.zeros(responses, dtype=torch.long, device=device))
        return hidden[:, -1]

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """See `ResponseCache`."""
        return hidden_states(self.vlm.model, ids[:, None], _on_all_axes(positions), cache=self.cache)[:, 0]

    def keep(self, rows: Tensor) -> None:
        """See `ResponseCache`; an index may come more than once."""
        self.cache.reorder_cache(rows)


def _on_all_axes(positions: Tensor) -> Tensor:
    """(B,) → (3, B, 1): text moves along M-RoPE's axes together."""
    return positions.expand(3, -1)[:, :, None]
