"""From an `Example` to a `Prompt`: chat template, tokenizer and image preprocessing."""

from typing import Any

import torch
from torch import Tensor

from observe_r1.config import QuestionSettings
from observe_r1.data.format_prompts import apply_format_prompt, asked_format
from observe_r1.data.images import open_image
from observe_r1.errors import UserError
from observe_r1.model.processor import render
from observe_r1.records import Example, Prompt


class PromptTooLongError(UserError):
    """The prompt is over `data.max_prompt_tokens`; it is dropped and named, never cut inside an image."""


def encode_prompt(example: Example, processor: Any, settings: QuestionSettings, stream: int = 0) -> Prompt:
    """Return `example` as the model takes it, the format prompt applied where the question brings none along.

    The same as one call of the processor, which does more than is needed here and tokenizes the text a second time.

    Errors: `PromptTooLongError`; `UserError` for an image that cannot be opened or that the processor refuses, and for
    a question that asks for another format already, or that the model's chat template cannot write.
    """
    asked = asked_format(example.messages)
    if asked != "none" and settings.format_prompt not in (asked, "none"):
        raise UserError(
            f"{example.origin}: the question asks for the format {asked!r} already, data.format_prompt is "
            f"{settings.format_prompt!r}: give {asked!r}, or 'none'"
        )
    messages = apply_format_prompt(example.messages, settings.format_prompt, settings.format_prompt_place)
    text = render(messages, processor, example.origin)
    images = tuple(open_image(source, example.origin, settings.image_cache) for source in example.images)
    unexpanded = torch.tensor(processor.tokenizer(text)["input_ids"])
    ids, pixels, grid = unexpanded, None, None
    if images:
        try:
            features = processor.image_processor(images=list(images), return_tensors="pt")
        except ValueError as error:  # an image too long for its width, or another size the processor refuses
            raise UserError(f"{example.origin}: the processor refuses its images: {error}") from error
        pixels, grid = features["pixel_values"].float(), features["image_grid_thw"]
        ids = _expand(unexpanded, processor, grid, example)
    if len(ids) > settings.max_prompt_tokens:
        raise PromptTooLongError(
            f"{example.origin}: the prompt has {len(ids)} tokens, "
            f"data.max_prompt_tokens is {settings.max_prompt_tokens}"
        )
    return Prompt(
        ids=ids,
        unexpanded_ids=unexpanded,
        token_types=(ids == processor.image_token_id).long(),
        images=images,
        pixel_values=pixels,
        image_grid=grid,
        text=text,
        stream=stream,
    )


def _expand(unexpanded: Tensor, processor: Any, grid: Tensor, example: Example) -> Tensor:
    """Repeat each image placeholder once for every merged visual patch of its image."""
    placeholders = unexpanded == processor.image_token_id
    if int(placeholders.sum()) != len(grid):
        raise UserError(
            f"{example.origin}: {len(grid)} images, but the model's chat template leaves places for "
            f"{int(placeholders.sum())}"
        )
    repeats = torch.ones_like(unexpanded)
    repeats[placeholders] = grid.prod(dim=1) // processor.image_processor.merge_size**2
    return unexpanded.repeat_interleave(repeats)
