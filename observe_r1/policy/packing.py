"""Groups packed for the update: one prompt, all its responses, one sequence; several groups up to a token budget.

    group     prompt p0 p1 p2, responses a0 a1 a2 and b0 b1
    packed    p0 p1 p2 a0 a1 b0          (a response's last token predicts nothing and is left out)
    predicts  · · a0   a1 a2 b1          (the last prompt token predicts every response's first token)

Positions of every response restart after the prompt, on all three axes of M-RoPE. A group over the budget is split into
sub-packs of its responses; because the loss is a plain sum over tokens, their gradients add up to the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from observe_r1.model.forward import rope_positions
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.packed_layout import PackedLayout
from observe_r1.records import Group, Prompt


@dataclass(frozen=True, slots=True)
class Span:
    """Responses `first` to `last` (exclusive) of the `group`-th group."""

    group: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One packed sequence of T tokens that predicts S response tokens."""

    spans: tuple[Span, ...]
    prompts: tuple[Prompt, ...]
    ids: Tensor
    """(T,) int64."""
    positions: Tensor
    """(3, T) int64."""
    layout: PackedLayout
    predictors: Tensor
    """(S,): the position in the sequence whose hidden state predicts each response token."""
    targets: Tensor
    """(S,): the response tokens, in the order of `spans`."""


def plan_packs(groups: Sequence[Group], budget: int) -> list[tuple[Span, ...]]:
    """Split groups into packs of at most `budget` tokens, in order; a pack holds at least one response.

    Source of the idea: first-fit packing in arrival order, which keeps prompts of one minibatch together.
    """
    packs: list[tuple[Span, ...]] = []
    current: list[Span] = []
    used = 0
    for index, group in enumerate(groups):
        for span, size in _spans_within(group, index, budget):
            if current and used + size > budget:
                packs.append(tuple(current))
                current, used = [], 0
            current.append(span)
            used += size
    if current:
        packs.append(tuple(current))
    return packs


def _spans_within(group: Group, index: int, budget: int) -> Iterator[tuple[Span, int]]:
    """Yield the group whole, or in runs of responses that fit the budget, each with its size in tokens."""
    prompt = len(group.prompt.ids)
    first, size = 0, prompt
    for number, length in enumerate(group.lengths):
        if number > first and size + length - 1 > budget:
            yield Span(index, first, number), size
            first, size = number, prompt
        size += length - 1
    yield Span(index, first, len(group.lengths)), size


def build_pack(vlm: VisionLanguageModel, groups: Sequence[Group], spans: tuple[Span, ...]) -> Pack:
    """Lay the responses of `spans` out as one sequence on the model's device."""
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    predictors: list[Tensor] = []
    targets: list[Tensor] = []
    start = 0
    for span in spans:
        prompt = groups[span.group].prompt
        prompt_positions = rope_positions(vlm.model, prompt)
        ids.append(prompt.ids)
        positions.append(prompt_positions)
        start += len(prompt.ids)
        last_of_prompt, next_position = start - 1, int(prompt_positions.max()) + 1
        for completion in groups[span.group].completions[span.first : span.last]:
            inputs = len(completion.ids) - 1
            ids.append(completion.ids[:-1])
            positions.append((torch.arange(inputs) + next_position).expand(3, -1))
            predictors.append(torch.tensor([last_of_prompt]))
            predictors.append(torch.arange(inputs) + start)
            targets.append(completion.ids)
            start += inputs
    device = vlm.device
    prompts = tuple(groups[span.group].prompt for span in spans)
    responses = [[n - 1 for n in groups[span.group].lengths[span.first : span.last]] for span in spans]
    return Pack(
        spans=spans,
        prompts=prompts,
        ids=torch.cat(ids).to(device),
        positions=torch.cat(positions, dim=1).to(device),
        layout=PackedLayout([len(p.ids) for p in prompts], responses, device),
        predictors=torch.cat(predictors).to(device),
        targets=torch.cat(targets).to(device),
    )


def select(per_group: Sequence[Tensor], groups: Sequence[Group], spans: Sequence[Span]) -> Tensor:
    """Cut per-token tensors (T,) of each group to the tokens of `spans`: (S,), in the order of `Pack.targets`."""
    parts = []
    for span in spans:
        lengths = groups[span.group].lengths
        begin = sum(lengths[: span.first])
        parts.append(per_group[span.group][begin : begin + sum(lengths[span.first : span.last])])
    return torch.cat(parts)
