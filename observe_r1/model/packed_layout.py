"""Several groups as one packed sequence: each response sees its own prompt and itself.

    sequence   [ prompt 0 | r0 | r1 | r2 | prompt 1 | r0 | r1 | … ]
    r1 of group 0 attends to prompt 0 and, causally, to itself

A dense (T, T) mask would compute all T² scores where P²/2 + P·ΣR + ΣR²/2 a group are needed. On the CPU these three are
computed apart and merged (`model.merged_attention`): prompts causally, a group's responses together over their prompt,
each response causally over itself. On CUDA the same rule is a block mask, which skips empty blocks
(`model.flex_attention`).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from observe_r1.model import flex_attention, merged_attention


class PackedLayout:
    """Layout of N groups; `prompts[i]` tokens followed by responses of `responses[i]` tokens each.

    A prompt has at least one token; a response may have none (a one-token response needs no input but the prompt),
    and a group may have no responses (prefill).
    """

    def __init__(self, prompts: Sequence[int], responses: Sequence[Sequence[int]], device: torch.device) -> None:
        self.prompts = list(prompts)
        self.responses = [list(group) for group in responses]
        self.device = device
        self.prompt_starts: list[int] = []
        self.response_starts: list[list[int]] = []
        position = 0
        for prompt, group in zip(self.prompts, self.responses, strict=True):
            self.prompt_starts.append(position)
            position += prompt
            self.response_starts.append([])
            for length in group:
                self.response_starts[-1].append(position)
                position += length
        self.tokens = position

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Return the attention's output (1, H, T, D); see `AttentionLayout`."""
        if query.is_cuda:
            return flex_attention.attend(query, key, value, self.block_mask, scaling)
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        return merged_attention.attend(query, key, value, self._parts, scaling).transpose(0, 1)[None]

    @cached_property
    def block_mask(self) -> BlockMask:
        """The same rule for FlexAttention, padded; one for all layers."""
        return flex_attention.make_block_mask(list(self._runs()), self.device)

    def _runs(self) -> Iterator[flex_attention.Run]:
        for i, prompt_start in enumerate(self.prompt_starts):
            prompt_end = prompt_start + self.prompts[i]
            yield flex_attention.Run(prompt_start, prompt_end, prompt_start, prompt_start)
            for start, length in zip(self.response_starts[i], self.responses[i], strict=True):
                yield flex_attention.Run(start, start + length, prompt_start, prompt_end)

    @cached_property
    def _parts(self) -> list[merged_attention.Part]:
        """The same rule for the CPU: no part's batch repeats a prompt."""
        prompts = [merged_attention.Run(*run) for run in zip(self.prompt_starts, self.prompts, strict=True)]
        together, single = [], []
        for prompt, starts, lengths in zip(prompts, self.response_starts, self.responses, strict=True):
            if sum(lengths):
                together.append((merged_attention.Run(starts[0], sum(lengths)), prompt))
            single += [merged_attention.Run(*run) for run in zip(starts, lengths, strict=True) if run[1]]
        return [
            *merged_attention.parts(((run, run) for run in prompts), causal=True),
            *merged_attention.parts(together, causal=False),
            *merged_attention.parts(((run, run) for run in single), causal=True),
        ]
