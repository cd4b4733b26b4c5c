"""From an `Example` to a `Prompt`: chat template, tokenizer and image preprocessing."""

from typing import Any

import torch

from observe_r1.config import DataSettings
from observe_r1.data.format_prompts import apply_format_prompt
from observe_r1.data.images import open_image
from observe_r1.errors import UserError
from observe_r1.records import Example, Prompt


class PromptTooLongError(UserError):
    """The prompt is over `data.max_prompt_tokens`; it is dropped and named, never cut inside an image."""


def encode_prompt(example: Example, processor: Any, settings: DataSettings, stream: int = 0) -> Prompt:
    """Return `example` as the model takes it, the format prompt applied.

    Errors: `PromptTooLongError`; `UserError` for an image that cannot be opened or that the processor refuses.
    """
    messages = apply_format_prompt(example.messages, settings.format_prompt, settings.format_prompt_place)
    text = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    images = tuple(open_image(source, example.origin) for source in example.images)
    try:
        encoded = processor(text=[text], images=list(images) or None, return_tensors="pt")
    except ValueError as error:  # an image too long for its width, or another size the processor refuses
        raise UserError(f"{example.origin}: the processor refuses its images: {error}") from error
    ids = encoded["input_ids"][0]
    if len(ids) > settings.max_prompt_tokens:
        raise PromptTooLongError(
            f"{example.origin}: the prompt has {len(ids)} tokens, "
            f"data.max_prompt_tokens is {settings.max_prompt_tokens}"
        )
    image_token = processor.image_token_id
    return Prompt(
        ids=ids,
        unexpanded_ids=processor.tokenizer(text, return_tensors="pt")["input_ids"][0],
        token_types=(ids == image_token).long(),
        images=images,
        pixel_values=encoded["pixel_values"].to(torch.float32) if images else None,
        image_grid=encoded["image_grid_thw"] if images else None,
        stream=stream,
    )
