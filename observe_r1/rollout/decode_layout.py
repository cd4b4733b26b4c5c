"""The attention of the embedded engine: prompts that keep their keys and values, and responses that add to their own.

    prefill    [ prompt 0 | prompt 1 | … ]     packed into one sequence; every layer's keys and values are kept
    decode     r0 r1 r2 | r0 r1 r2 | …         one new token per response, which sees its prompt and its own tokens

A response's attention over [prompt, own tokens] is computed in two parts that share one softmax: all responses to a
prompt read its keys together, in one matrix product, and each reads its own. The prompt is neither computed nor stored
again for each of its G responses (Hydragen, arXiv 2402.05099).

Scores are kept in float32, whatever the type of keys and values: rounded to bfloat16, a score of 20 would be off by up
to 0.06, and its weight by 6 %.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from observe_r1.model.device import to_device
from observe_r1.model.shared_prefix import PackedLayout

_GROWTH = 128
"""Tokens by which the responses' storage grows at a time."""


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
    """Keys and values of B responses to N prompts, and the attention of one new token of each response.

    Per layer, prompts' keys are (N, H_kv, longest prompt, D) and responses' (B, H_kv, capacity, D), as are values.

    Args:
        device: Of the model.
        whole: Attend to all of the responses' storage, not just the part that is filled, so that a step has the same
            shapes until the storage grows.
    """

    def __init__(self, device: torch.device, *, whole: bool) -> None:
        self.device = device
        self.whole = whole
        self.prompt_keys: list[Tensor] = []
        self.prompt_values: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        # On the CPU, whatever the device:
        self.prompt_lengths = torch.empty(0, dtype=torch.long)
        self.lengths = torch.empty(0, dtype=torch.long)
        """(B,): tokens stored of each row, the one being computed included."""
        self.owner = torch.empty(0, dtype=torch.long)
        """(B,): the prompt of each row. Rows of a prompt are neighbours."""

    def admit(self, prefill: PrefillLayout, responses: int) -> None:
        """Add every prompt of `prefill`, with `responses` empty rows each."""
        first, new = len(self.prompt_lengths), len(prefill.prompts)
        rows = new * responses
        _append(self.prompt_keys, (_unpacked(states, prefill.prompts) for states in prefill.keys))
        _append(self.prompt_values, (_unpacked(states, prefill.prompts) for states in prefill.values))
        _append(self.keys, (_empty_rows(states, rows) for states in prefill.keys))
        _append(self.values, (_empty_rows(states, rows) for states in prefill.values))
        self.prompt_lengths = torch.cat([self.prompt_lengths, torch.tensor(prefill.prompts)])
        self.owner = torch.cat([self.owner, torch.arange(first, first + new).repeat_interleave(responses)])
        self.lengths = torch.cat([self.lengths, torch.zeros(rows, dtype=torch.long)])
        self._arrange()

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows` (indices, ascending, on the CPU) and the prompts that they belong to."""
        prompts, self.owner = self.owner[rows].unique(return_inverse=True)
        self.lengths = self.lengths[rows]
        staying = to_device(rows, self.device)
        for stored in (self.keys, self.values):
            _replace(stored, lambda states: states[staying])
        if len(prompts) < len(self.prompt_lengths):
            self.prompt_lengths = self.prompt_lengths[prompts]
            longest = int(self.prompt_lengths.max()) if len(prompts) else 0
            needed = to_device(prompts, self.device)
            for stored in (self.prompt_keys, self.prompt_values):
                _replace(stored, lambda states: states[needed, :, :longest])
        self._arrange()

    def make_room(self) -> bool:
        """Make room for one more token in each row, before each step.

        Returns:
            Whether keys and values have moved to larger storage.
        """
        self.lengths = self.lengths + 1
        needed, capacity = int(self.lengths.max()), self.keys[0].shape[2]
        grows = needed > capacity
        if grows:
            for stored in (self.keys, self.values):
                _replace(stored, lambda states: F.pad(states, (0, 0, 0, _GROWTH)))
            capacity += _GROWTH
        self._visible = capacity if self.whole else needed
        return grows

    def begin_token(self) -> None:
        """Hide what lies beyond each row's new token; on the device, before the layers of a step."""
        visible = torch.arange(self._visible, device=self.device) <= self._ends[:, None]
        self._own_mask = _additive(visible)[:, None, None]

    def end_token(self) -> None:
        """Count the new token of each row; on the device, after the layers of a step."""
        self._ends.add_(1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Store one token's key and value a row and attend; shapes (B, H, 1, D) and (B, H_kv, 1, D)."""
        rows, heads, _, width = query.shape
        shared = key.shape[1]
        at = self._ends[:, None, None, None].expand_as(key)
        self.keys[layer].scatter_(2, at, key)
        self.values[layer].scatter_(2, at, value)
        own_keys, own_values = (stored[layer][:, :, : self._visible] for stored in (self.keys, self.values))

        query = query.view(rows, shared, heads // shared, width)
        own = _scores(query, own_keys, scaling, self._own_mask)  # (B, H_kv, H/H_kv, own)
        # (N, H_kv, rows a prompt · H/H_kv, prompt)
        prompt = _scores(self._to_prompts(query), self.prompt_keys[layer], scaling, self._prompt_mask)
        total = torch.logaddexp(
            own.logsumexp(3, keepdim=True), self._to_rows(prompt.logsumexp(3, keepdim=True), heads // shared)
        )
        from_own = _float32_product((own - total).exp().to(value.dtype), own_values)
        weights = (prompt - self._to_prompts(total)).exp().to(value.dtype)
        from_prompt = self._to_rows(_float32_product(weights, self.prompt_values[layer]), heads // shared)
        return (from_own + from_prompt).to(value.dtype).view(rows, heads, 1, width)

    def _arrange(self) -> None:
        """Give each row a place in a grid of N prompts × S rows, S the most rows that any prompt has."""
        counts = torch.bincount(self.owner, minlength=len(self.prompt_lengths))
        self._side = int(counts.max()) if len(counts) else 0
        # Rows of a prompt are neighbours and in order, so a row's place is its distance from the prompt's first.
        first = counts.cumsum(0) - counts
        rows = torch.arange(len(self.owner))
        places = self.owner * self._side + rows - first[self.owner]
        sources = torch.zeros(len(counts) * self._side, dtype=torch.long)
        sources[places] = rows
        longest = self.prompt_keys[0].shape[2] if self.prompt_keys else 0
        visible = torch.arange(longest) < self.prompt_lengths[:, None]
        self._places = to_device(places, self.device)
        self._sources = to_device(sources, self.device)
        self._prompt_mask = to_device(_additive(visible)[:, None, None], self.device)
        self._ends = to_device(self.lengths.clone(), self.device)  # cloned, because it is counted in place

    def _to_prompts(self, rows: Tensor) -> Tensor:
        """(B, H_kv, r, X) by row → (N, H_kv, S · r, X) by prompt; places without a row hold what nobody reads."""
        _, shared, repeats, width = rows.shape
        grid = rows.index_select(0, self._sources)
        grid = grid.view(-1, self._side, shared, repeats, width).transpose(1, 2)
        return grid.reshape(-1, shared, self._side * repeats, width)

    def _to_rows(self, grid: Tensor, repeats: int) -> Tensor:
        """(N, H_kv, S · r, X) by prompt → (B, H_kv, r, X) by row."""
        prompts, shared, _, width = grid.shape
        grid = grid.view(prompts, shared, self._side, repeats, width).transpose(1, 2)
        return grid.reshape(-1, shared, repeats, width).index_select(0, self._places)


def _scores(query: Tensor, keys: Tensor, scaling: float, mask: Tensor) -> Tensor:
    """Return the attention scores of (…, Q, D) for (…, K, D) under an additive mask, in float32 at least."""
    if query.dtype == torch.bfloat16:
        return torch.add(mask, _float32_product(query, keys.transpose(2, 3)), alpha=scaling)
    return (query * scaling) @ keys.transpose(2, 3) + mask


def _float32_product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left` @ `right`, (…, N, K) and (…, K, M); of bfloat16 operands in float32, as it was added up.

    `out_dtype` is for CUDA (and XPU) alone, and has no derivative (native_functions.yaml, derivatives.yaml of torch
    2.13). On the CPU float32 copies give the same: products of bfloat16 numbers are exact in float32.
    """
    if left.dtype != torch.bfloat16:
        return left @ right
    if left.is_cpu:
        return left.float() @ right.float()
    product = torch.bmm(left.flatten(0, -3), right.flatten(0, -3), out_dtype=torch.float32)
    return product.unflatten(0, left.shape[:-2])


def _additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, float("-inf"))


def _replace(stored: list[Tensor], change: Callable[[Tensor], Tensor]) -> None:
    """Change one layer's tensor after the other, so that only one of them is held twice at a time."""
    for layer, states in enumerate(stored):
        stored[layer] = change(states)


def _append(stored: list[Tensor], new: Iterable[Tensor]) -> None:
    """Add rows to each layer's tensor, padding the token axis to the longer one; an empty list takes `new` itself."""
    for layer, rows in enumerate(new):
        if layer == len(stored):
            stored.append(rows)
            continue
        length = max(stored[layer].shape[2], rows.shape[2])
        pair = (F.pad(t, (0, 0, 0, length - t.shape[2])) for t in (stored[layer], rows))
        stored[layer] = torch.cat(list(pair))


def _unpacked(states: Tensor, prompts: Sequence[int]) -> Tensor:
    """(H_kv, T, D) of packed prompts → (N, H_kv, longest, D), zeros after each prompt."""
    longest = max(prompts)
    parts = states.split(list(prompts), dim=1)
    return torch.stack([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


def _empty_rows(states: Tensor, rows: int) -> Tensor:
    heads, _, width = states.shape
    return states.new_zeros(rows, heads, _GROWTH, width)
