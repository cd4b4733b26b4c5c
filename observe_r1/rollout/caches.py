"""What the embedded engine keeps of prompts and responses from one token to the next.

Under any attention a prompt is computed once for all of its responses; under `shared_prefix` it is also stored once,
and responses to other prompts are drawn beside it.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from observe_r1.model.families import shares_prefix
from observe_r1.model.forward import encode_images, hidden_states
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.shared_prefix import PackedLayout
from observe_r1.records import Prompt

# The key-value cache of a sampling batch: each prompt once, each response's own tokens beside it.
#
# A response's attention over [prompt, own tokens] is computed in two parts that share one softmax: all responses of a
# prompt read its keys together, in one matrix product, and each reads its own. The prompt is neither computed nor
# stored
# again for each of its G responses (the idea of Hydragen, arXiv 2402.05099).

_GROWTH = 64  # tokens by which the responses' storage grows at a time


class PrefillLayout(PackedLayout):
    """Prompts packed into one sequence; keeps the keys and values of every layer."""

    def __init__(self, prompts: list[int], device: torch.device) -> None:
        super().__init__(prompts, [[] for _ in prompts], device)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Attend as packed prompts do, and keep (H_kv, T, D) keys and values of this layer."""
        self.keys.append(key[0])
        self.values.append(value[0])
        return super().attend(query, key, value, scaling, layer)


class DecodeLayout:
    """The cache of B responses to N prompts, one new token a response and forward.

    Prompts' keys are (N, H_kv, longest prompt, D) a layer, responses' (B, H_kv, capacity, D).
    """

    def __init__(self) -> None:
        self.prompt_keys: list[Tensor] = []
        self.prompt_values: list[Tensor] = []
        self.prompt_lengths = torch.empty(0, dtype=torch.long)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths = torch.empty(0, dtype=torch.long)
        self.owner = torch.empty(0, dtype=torch.long)

    def admit(self, prefill: PrefillLayout, responses: int) -> None:
        """Add every prompt of `prefill` with `responses` empty rows each."""
        lengths = torch.tensor(prefill.prompts, device=prefill.device)
        first = len(self.prompt_lengths)
        newcomers = torch.arange(first, first + len(lengths), device=prefill.device)
        self.prompt_keys = _joined(self.prompt_keys, [_unpacked(k, prefill) for k in prefill.keys])
        self.prompt_values = _joined(self.prompt_values, [_unpacked(v, prefill) for v in prefill.values])
        rows = [_empty_rows(k, len(lengths) * responses) for k in prefill.keys]
        self.keys = _joined(self.keys, rows)
        self.values = _joined(self.values, rows)
        self.prompt_lengths = torch.cat([self.prompt_lengths.to(lengths.device), lengths])
        self.owner = torch.cat([self.owner.to(lengths.device), newcomers.repeat_interleave(responses)])
        self.lengths = torch.cat([self.lengths.to(lengths.device), newcomers.new_zeros(len(rows[0]))])
        self._arrange()

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows` (indices) and the prompts they belong to."""
        prompts, self.owner = self.owner[rows].unique(return_inverse=True)
        self.lengths = self.lengths[rows]
        self.keys, self.values = ([t[rows] for t in stored] for stored in (self.keys, self.values))
        if len(prompts) < len(self.prompt_lengths):
            self.prompt_lengths = self.prompt_lengths[prompts]
            longest = int(self.prompt_lengths.max()) if len(prompts) else 0
            self.prompt_keys, self.prompt_values = (
                [t[prompts, :, :longest] for t in stored] for stored in (self.prompt_keys, self.prompt_values)
            )
        self._arrange()

    def grow(self) -> None:
        """Make room for one more token a row. Call once before each forward."""
        self._filled = int(self.lengths.max()) + 1
        if self._filled > self.keys[0].shape[2]:
            self.keys, self.values = (
                [F.pad(t, (0, 0, 0, _GROWTH)) for t in stored] for stored in (self.keys, self.values)
            )
        own = torch.arange(self._filled, device=self.lengths.device) <= self.lengths[:, None]
        self._own_mask = _additive(own)[:, None, None]

    def advance(self) -> None:
        """Count the token that the last forward stored for every row."""
        self.lengths = self.lengths + 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Store one token's key and value a row and attend; shapes (B, H, 1, D) and (B, H_kv, 1, D)."""
        rows, heads, _, width = query.shape
        shared = key.shape[1]
        everyone = torch.arange(rows, device=query.device)
        self.keys[layer][everyone, :, self.lengths] = key[:, :, 0]
        self.values[layer][everyone, :, self.lengths] = value[:, :, 0]
        own_keys, own_values = (s[layer][:, :, : self._filled] for s in (self.keys, self.values))

        query = query.view(rows, shared, heads // shared, width) * scaling
        own_scores = query @ own_keys.transpose(2, 3) + self._own_mask  # (B, H_kv, H/H_kv, own)
        prompt_scores = self._to_prompts(query) @ self.prompt_keys[layer].transpose(2, 3)
        prompt_scores = prompt_scores + self._prompt_mask  # (N, H_kv, rows a prompt · H/H_kv, prompt)

        total = torch.logaddexp(
            own_scores.logsumexp(3, keepdim=True),
            self._to_rows(prompt_scores.logsumexp(3, keepdim=True), heads // shared),
        )
        from_own = (own_scores - total).exp() @ own_values
        weights = (prompt_scores - self._to_prompts(total)).exp()
        from_prompt = self._to_rows(weights @ self.prompt_values[layer], heads // shared)
        return (from_own + from_prompt).view(rows, heads, 1, width)

    def _arrange(self) -> None:
        """Give each row a place in a grid of N prompts × S rows, S the most rows any prompt has."""
        counts = torch.bincount(self.owner, minlength=len(self.prompt_lengths))
        self._side = int(counts.max()) if len(counts) else 0
        # Rows of a prompt stand together and in order, so a row's place is its distance from the prompt's first.
        first = counts.cumsum(0) - counts
        within = torch.arange(len(self.owner), device=self.owner.device) - first[self.owner]
        self._place = self.owner * self._side + within
        longest = self.prompt_keys[0].shape[2] if self.prompt_keys else 0
        visible = torch.arange(longest, device=self.owner.device) < self.prompt_lengths[:, None]
        self._prompt_mask = _additive(visible)[:, None, None]

    def _to_prompts(self, rows: Tensor) -> Tensor:
        """(B, H_kv, r, X) by row → (N, H_kv, S · r, X) by prompt; empty places hold zeros."""
        _, shared, repeats, width = rows.shape
        grid = rows.new_zeros(len(self.prompt_lengths) * self._side, shared, repeats, width)
        grid = grid.index_copy(0, self._place, rows)
        grid = grid.view(-1, self._side, shared, repeats, width).transpose(1, 2)
        return grid.reshape(-1, shared, self._side * repeats, width)

    def _to_rows(self, grid: Tensor, repeats: int) -> Tensor:
        """(N, H_kv, S · r, X) by prompt → (B, H_kv, r, X) by row."""
        prompts, shared, _, width = grid.shape
        grid = grid.view(prompts, shared, self._side, repeats, width).transpose(1, 2)
        return grid.reshape(-1, shared, repeats, width)[self._place]


def _additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, float("-inf"))


def _unpacked(states: Tensor, prefill: PrefillLayout) -> Tensor:
    """(H_kv, T, D) of packed prompts → (N, H_kv, longest, D), zeros after each prompt."""
    parts = states.split(prefill.prompts, dim=1)
    longest = max(prefill.prompts)
    return torch.stack([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


def _empty_rows(states: Tensor, rows: int) -> Tensor:
    heads, _, width = states.shape
    return states.new_zeros(rows, heads, _GROWTH, width)


def _joined(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """Concatenate along rows, layer by layer, padding the token axis to the longer one."""
    if not old:
        return [t.clone() for t in new]
    length = max(old[0].shape[2], new[0].shape[2])
    return [torch.cat([F.pad(t, (0, 0, 0, length - t.shape[2])) for t in pair]) for pair in zip(old, new, strict=True)]


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
