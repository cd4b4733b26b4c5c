"""`shared_prefix`: the text model's attention, told by a layout which tokens see which.

Transformers passes a forward's keyword arguments on to the attention function. So the caller hands over a *layout*
(`model(…, layout=layout)`) in place of a (T, T) mask, and the layout computes the attention in the cheapest way that it
knows. `PackedLayout` here serves updates (see `policy.packing`) and prefill, `rollout.decode_layout` sampling.
The image tower runs once per prompt in `model.forward.encode_images`.

    sequence   [ prompt 0 | r0 | r1 | r2 | prompt 1 | r0 | r1 | … ]
    r1 of group 0 attends to prompt 0 and, causally, to itself

A dense (T, T) mask would compute all T² scores where P²/2 + P·ΣR + ΣR²/2 a group are needed. On the CPU these three are
computed apart and merged (`model.merged_attention`): prompts causally, a group's responses together over their prompt,
each response causally over itself. On CUDA the same rule is a block mask, which skips empty blocks
(`model.flex_attention`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, PreTrainedModel

from observe_r1.model import flex_attention, merged_attention

NAME = "shared_prefix"


class AttentionLayout(Protocol):
    """Which tokens of a packed sequence attend to which."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Compute one layer's attention.

        Args:
            query: (B, H, T, D), rotated.
            key: (B, H_kv, T, D), rotated; H_kv divides H.
            value: (B, H_kv, T, D).
            scaling: Of the scores, before the softmax.
            layer: Number of the layer, from 0.

        Returns:
            (B, H, T, D).
        """
        ...


def shared_prefix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    layout: AttentionLayout,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend by `layout`, in the form of transformers' attention interface.

    Returns:
        The output (B, T, H, D), and no weights.
    """
    # Under autocast, rotary embedding leaves query and key in float32 beside a value in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    output = layout.attend(query, key, value, scaling, int(module.layer_idx))  # type: ignore[arg-type]
    return output.transpose(1, 2), None


def use_shared_prefix(model: PreTrainedModel) -> None:
    """Make `model`'s text model attend by layouts; its image tower keeps what it has."""
    AttentionInterface.register(NAME, shared_prefix)
    model.set_attn_implementation({"text_config": NAME})


def compile_ahead(
    model: PreTrainedModel, longest: int, dtype: torch.dtype, device: torch.device, note: Callable[[str], None]
) -> None:
    """Compile the attention kernels of packs of up to `longest` tokens; on the CPU, or without layouts, there are none.

    Args:
        model: Its weights may be absent still.
        longest: `optimizer.tokens_per_pack`.
        dtype: The compute type.
        device: Where it computes.
        note: Is told what is being compiled.

    Raises:
        UserError: As `flex_attention.compile_kernels`.
    """
    text = model.config.text_config
    if device.type == "cuda" and text._attn_implementation == NAME:
        heads = text.num_attention_heads, text.num_key_value_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        flex_attention.compile_kernels(heads, width, longest, dtype, device, note)


class PackedLayout:
    """Several groups as one packed sequence: each response sees its own prompt and itself.

    Args:
        prompts: Tokens of each group's prompt, at least one.
        responses: Tokens of each response of each group. A response may have none (one of a single token needs no input
            but the prompt), and a group may have no responses (prefill).
        device: Where the attention is computed.
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
        """T, of the whole sequence."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Compute one layer's attention on a batch of one sequence; see `AttentionLayout.attend`."""
        if query.is_cuda:
            return flex_attention.flex_attend(query, key, value, self.block_mask, scaling)
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        return merged_attention.merged_attend(query, key, value, self._parts, scaling).transpose(0, 1)[None]

    @cached_property
    def block_mask(self) -> BlockMask:
        """The rule for FlexAttention, padded; one for all layers."""
        return flex_attention.make_block_mask(list(self._runs()), self.device)

    def _runs(self) -> Iterator[flex_attention.Segment]:
        for i, prompt_start in enumerate(self.prompt_starts):
            prompt_end = prompt_start + self.prompts[i]
            yield flex_attention.Segment(prompt_start, prompt_end, prompt_start, prompt_start)
            for start, length in zip(self.response_starts[i], self.responses[i], strict=True):
                yield flex_attention.Segment(start, start + length, prompt_start, prompt_end)

    @cached_property
    def _parts(self) -> list[merged_attention.Part]:
        """The rule for the CPU: no part's batch repeats a prompt. A prompt with one response is a run of its own."""
        stretch = merged_attention.Stretch
        runs, together, single = [], [], []
        for start, prompt, starts, lengths in zip(
            self.prompt_starts, self.prompts, self.response_starts, self.responses, strict=True
        ):
            if len(lengths) == 1:
                runs.append(stretch(start, prompt + lengths[0]))
                continue
            runs.append(stretch(start, prompt))
            if sum(lengths):
                together.append((stretch(starts[0], sum(lengths)), runs[-1]))
            single += [stretch(*run) for run in zip(starts, lengths, strict=True) if run[1]]
        return [
            *merged_attention.parts(((run, run) for run in runs), causal=True),
            *merged_attention.parts(together, causal=False),
            *merged_attention.parts(((run, run) for run in single), causal=True),
        ]
