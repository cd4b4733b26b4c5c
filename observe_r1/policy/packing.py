"""Groups packed for the update: one prompt, all its responses, one sequence; several groups up to a token budget.

    group     prompt p0 p1 p2, responses a0 a1 a2 and b0 b1
    packed    p0 p1 p2 a0 a1 b0          (a response's last token predicts nothing and is left out)
    predicts  · · a0   a1 a2 b1          (the last prompt token predicts every response's first token)

Positions of every response start again after the prompt, on all three axes of M-RoPE. A group over the budget is split
into packs of some of its responses; because the loss is a plain sum over tokens, their gradients add up to the same.

A model that shares no prefixes (`model.families`) takes a group's responses as rows, each after its own prompt:

    rows      p0 p1 p2 a0 a1
              p0 p1 p2 b0 ·              (padding comes last, where causal attention hides it from every token)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from observe_r1.model.device import to_device
from observe_r1.model.families import shares_prefix
from observe_r1.model.forward import rope_positions
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.shared_prefix import PackedLayout
from observe_r1.records import Group, Prompt


@dataclass(frozen=True, slots=True)
class ResponseSpan:
    """Responses `first` to `last` (exclusive) of the `group`-th group."""

    group: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One forward's B sequences of T tokens, B = 1 if prefixes are shared, that predict S response tokens."""

    spans: tuple[ResponseSpan, ...]
    prompts: tuple[Prompt, ...]
    """In the order of the sequences: one per span, or one per row."""
    ids: Tensor
    """(B, T) int64."""
    positions: Tensor
    """(3, B, T) int64."""
    layout: PackedLayout | None
    """None if prefixes are not shared."""
    predictors: Tensor
    """(S,) int64: which of the B · T tokens has the hidden state that predicts each response token."""
    targets: Tensor
    """(S,) int64: the response tokens, in the order of `spans`."""
    share: float = 1.0
    """0 if a rank runs it only to keep step with the others: it then adds nothing to loss, gradient and metrics."""
    blank_image: bool = False
    """Whether the image tower, which is trained, runs on a blank image, to keep step; `prompts` then have none."""


def plan_packs(groups: Sequence[Group], budget: int, shared: bool) -> list[tuple[ResponseSpan, ...]]:
    """Split groups into packs of at most `budget` tokens, in order; a pack holds at least one response.

    Args:
        groups: Of a batch or a rollout.
        budget: Tokens of a pack, padding included.
        shared: Whether responses share their prompt. If so, a pack may hold several groups, else only one.

    Returns:
        The spans of each pack.
    """
    packs: list[tuple[ResponseSpan, ...]] = []
    current: list[ResponseSpan] = []
    used = 0
    for index, group in enumerate(groups):
        for span, size in pieces_within(group, index, budget, shared):
            if current and (used + size > budget or not shared):
                packs.append(tuple(current))
                current, used = [], 0
            current.append(span)
            used += size
    if current:
        packs.append(tuple(current))
    return packs


def pieces_within(group: Group, index: int, budget: int, shared: bool) -> Iterator[tuple[ResponseSpan, int]]:
    """Yield the whole group, or runs of its responses that fit the budget, each with its size in tokens."""

    def size(first: int, last: int) -> int:
        inputs = [length - 1 for length in group.lengths[first:last]]
        prompt = len(group.prompt.ids)
        return prompt + sum(inputs) if shared else (prompt + max(inputs)) * len(inputs)

    first, count = 0, len(group.lengths)
    for last in range(1, count):
        if size(first, last + 1) > budget:
            yield ResponseSpan(index, first, last), size(first, last)
            first = last
    yield ResponseSpan(index, first, count), size(first, count)


def build_pack(vlm: VisionLanguageModel, groups: Sequence[Group], spans: tuple[ResponseSpan, ...]) -> Pack:
    """Lay responses and their prompts out as the model takes them.

    Args:
        vlm: The model, which says whether prefixes are shared; the pack is on its device.
        groups: Those that `spans` counts.
        spans: Of one pack, from `plan_packs`.
    """
    return _one_sequence(vlm, groups, spans) if shares_prefix(vlm.model) else _rows(vlm, groups, spans)


def _one_sequence(vlm: VisionLanguageModel, groups: Sequence[Group], spans: tuple[ResponseSpan, ...]) -> Pack:
    """Lay out every prompt once, its responses after it."""
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
        ids=to_device(torch.cat(ids)[None], device),
        positions=to_device(torch.cat(positions, dim=1)[:, None], device),
        layout=PackedLayout([len(p.ids) for p in prompts], responses, device),
        predictors=to_device(torch.cat(predictors), device),
        targets=to_device(torch.cat(targets), device),
    )


def _rows(vlm: VisionLanguageModel, groups: Sequence[Group], spans: tuple[ResponseSpan, ...]) -> Pack:
    """Lay out one row per response, each after a prompt of its own."""
    (span,) = spans
    prompt = groups[span.group].prompt
    responses = [completion.ids for completion in groups[span.group].completions[span.first : span.last]]
    # Padded with a token that is surely no image placeholder.
    ids = pad_sequence([torch.cat([prompt.ids, r[:-1]]) for r in responses], True, vlm.stop_ids[0])
    rows, width = ids.shape
    prompt_positions = rope_positions(vlm.model, prompt)
    following = (torch.arange(width - len(prompt.ids)) + int(prompt_positions.max()) + 1).expand(3, -1)
    positions = torch.cat([prompt_positions, following], dim=1)[:, None].expand(-1, rows, -1)
    first = len(prompt.ids) - 1
    predictors = [torch.arange(len(r)) + row * width + first for row, r in enumerate(responses)]
    return Pack(
        spans=spans,
        prompts=(prompt,) * rows,
        ids=to_device(ids, vlm.device),
        positions=to_device(positions, vlm.device),
        layout=None,
        predictors=to_device(torch.cat(predictors), vlm.device),
        targets=to_device(torch.cat(responses), vlm.device),
    )


def token_place(group: Group, span: ResponseSpan) -> slice:
    """Return which of the T tokens of a group's responses are those of `span`."""
    begin = sum(group.lengths[: span.first])
    return slice(begin, begin + sum(group.lengths[span.first : span.last]))


def select(streams: Sequence[Tensor], groups: Sequence[Group], spans: Sequence[ResponseSpan]) -> Tensor:
    """Take the tokens of `spans` out of streams.

    Args:
        streams: One per group, (T,) each.
        groups: The groups, in the same order.
        spans: Of one pack.

    Returns:
        (S,), in the order of `Pack.targets`.
    """
    pairs = list(zip(streams, groups, strict=True))
    parts = []
    for span in spans:
        stream, group = pairs[span.group]
        parts.append(stream[token_place(group, span)])
    return torch.cat(parts)
