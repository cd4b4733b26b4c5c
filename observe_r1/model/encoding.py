"""From an `Example` to a `Prompt`: chat template, tokenizer and image preprocessing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from observe_r1.config import QuestionSettings
from observe_r1.data.format_prompts import apply_format_prompt, asked_format
from observe_r1.data.images import open_image
from observe_r1.errors import UserError
from observe_r1.model.checkpoint import brief
from observe_r1.records import Example, Message, Prompt


class PromptTooLongError(UserError):
    """The prompt is over `data.max_prompt_tokens`; it is dropped and named, never cut inside an image."""


def encode_prompt(example: Example, processor: Any, settings: QuestionSettings, stream: int = 0) -> Prompt:
    """Return `example` as the model takes it, the format prompt applied where the question brings none along.

    The same as one call of the processor, which does more than is needed here and tokenizes the text a second time.

    Errors: `PromptTooLongError`; `UserError` for an image that cannot be opened or that the processor refuses, and for
    a question that asks for another format already.
    """
    asked = asked_format(example.messages)
    if asked != "none" and settings.format_prompt not in (asked, "none"):
        raise UserError(
            f"{example.origin}: the question asks for the format {asked!r} already, data.format_prompt is "
            f"{settings.format_prompt!r}: give {asked!r}, or 'none'"
        )
    messages = apply_format_prompt(example.messages, settings.format_prompt, settings.format_prompt_place)
    text = _render(messages, processor, example.origin)
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


def check_template(processor: Any, place: str) -> None:
    """Raise `UserError`, beginning with `place`, where the chat template is missing, broken or for text alone."""
    if not processor.chat_template:
        raise UserError(
            f"{place}: no chat template: copy chat_template.jinja (or chat_template.json) from the instruction-tuned "
            "model that this one is from; a base model has none"
        )
    question = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
    text = _render([{"role": "user", "content": question}], processor, place)
    if not isinstance(processor.image_token_id, int):
        raise UserError(f"{place}: the tokenizer has no image token ({processor.image_token!r}): it is another model's")
    places = processor.tokenizer(text)["input_ids"].count(processor.image_token_id)
    if places != 1:
        raise UserError(
            f"{place}: the chat template leaves {places} places for one image: it is another model's, or for text alone"
        )


def _render(messages: Sequence[Message], processor: Any, place: str) -> str:
    """Return `messages` as the chat template writes them. Errors: `UserError` where it fails, or leaves text out."""
    try:
        text = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # the template is a program that ships with the model
        raise UserError(
            f"{place}: the model's chat template fails: {brief(error)}: correct it{_for_system(messages)}"
        ) from error
    for message in messages:
        for part in message["content"]:
            if message["role"] != "assistant" and part["type"] == "text" and part["text"].strip() not in text:
                raise UserError(
                    f"{place}: the model's chat template leaves out text of the {message['role']} turn: correct it"
                    f"{_for_system(messages)}"
                )
    return str(text)


def _for_system(messages: Sequence[Message]) -> str:
    has_system = any(message["role"] == "system" for message in messages)
    return ", or, where it takes no system turn, give --data.format_prompt_place suffix" if has_system else ""


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
