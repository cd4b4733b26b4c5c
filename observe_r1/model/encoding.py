"""From an `Example` to a `Prompt`: chat template, tokenizer and image preprocessing."""

import unicodedata
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import SizeDict

from observe_r1.config import QuestionSettings
from observe_r1.data.chat import LIMITS
from observe_r1.data.format_prompts import checked_format_prompt
from observe_r1.data.images import opened_image
from observe_r1.errors import UserError
from observe_r1.model.processor import render_chat
from observe_r1.records import Example, Message, Prompt


class PromptTooLongError(UserError):
    """The prompt is over `data.max_prompt_tokens`; it is dropped and named, never cut inside an image."""

    def __init__(self, message: str, tokens: int) -> None:
        super().__init__(message)
        self.tokens = tokens
        """Length of the prompt, at least."""


def encode_prompt(example: Example, processor: Any, settings: QuestionSettings, stream: int = 0) -> Prompt:
    """Return `example` as the model takes it, with the format prompt if the question itself asks for no format.

    The same as one call of the processor, which does more than is needed here and tokenizes the text a second time.

    Args:
        example: The question and its images, not yet opened.
        processor: Of the model (`load_processor`).
        settings: `data`: the format prompt and the longest prompt, in tokens.
        stream: Which draw of the run this is (`Prompt.stream`).

    Raises:
        PromptTooLongError: The prompt has more tokens than `settings.max_prompt_tokens`.
        UserError: An image cannot be opened or the processor refuses it, the question asks for another format already,
            or the model's chat template cannot write it.
    """
    messages = checked_format_prompt(example, settings)
    _check_length(messages, processor, settings, example)
    text = render_chat(messages, processor, example.origin)
    images = _images(example, processor, settings)
    unexpanded = torch.tensor(processor.tokenizer(text)["input_ids"])
    ids, pixels, grid = unexpanded, None, None
    if images:
        features = processor.image_processor(images=list(images), return_tensors="pt")
        pixels, grid = features["pixel_values"].float(), features["image_grid_thw"]
        ids = _expand(unexpanded, processor, grid, example)
    if len(ids) > settings.max_prompt_tokens:
        raise PromptTooLongError(
            f"{example.origin}: the prompt has {len(ids)} tokens, "
            f"data.max_prompt_tokens is {settings.max_prompt_tokens}",
            len(ids),
        )
    return Prompt(
        ids=ids,
        token_types=(ids == processor.image_token_id).long(),
        pixel_values=pixels,
        image_grid=grid,
        image_digests=tuple(map(_digest, images)),
        text=text,
        stream=stream,
    )


def _check_length(messages: tuple[Message, ...], processor: Any, settings: QuestionSettings, example: Example) -> None:
    """Raise `PromptTooLongError` for a text of more characters than so many tokens can spell, without tokenizing it."""
    texts = (part["text"] for message in messages for part in message["content"] if part["type"] == "text")
    characters = sum(len(unicodedata.normalize("NFC", text)) for text in texts)  # tokenizers compose characters, too
    tokens = characters // _longest_token(processor.tokenizer)
    if tokens > settings.max_prompt_tokens:
        raise PromptTooLongError(
            f"{example.origin}: the question has {characters:,} characters, which are over {tokens:,} tokens; "
            f"data.max_prompt_tokens is {settings.max_prompt_tokens}",
            tokens,
        )


@lru_cache(maxsize=4)
def _longest_token(tokenizer: Any) -> int:
    """Return the characters of the longest token, counted in bytes if the vocabulary is one of bytes."""
    return max(map(len, tokenizer.get_vocab()))


def _images(example: Example, processor: Any, settings: QuestionSettings) -> tuple[Image.Image, ...]:
    """Return the images in the size that the processor gives them, within the limits that their parts set.

    To resize them here and let the processor find nothing left to do is the same, pixel
    by pixel, and images of any size take no more memory than `model.max_pixels`.
    """
    parts = (part for message in example.messages for part in message["content"] if part["type"] == "image")
    images = []
    for source, part in zip(example.images, parts, strict=True):
        with opened_image(source, example.origin, settings) as image:
            try:
                images.append(_resized(image, part, processor.image_processor))
            except ValueError as error:  # an image too long for its width, or another size the processor refuses
                raise UserError(f"{example.origin}: the processor refuses its images: {error}") from error
    return tuple(images)


def _resized(image: Image.Image, part: dict[str, Any], processor: Any) -> Image.Image:
    least, most = processor.size["shortest_edge"], processor.size["longest_edge"]  # in pixels
    own = {key: min(max(part[key], least), most) for key in LIMITS if key in part}
    size = SizeDict(shortest_edge=own.get("min_pixels", least), longest_edge=own.get("max_pixels", most))
    resize = partial(processor.resize, resample=processor.resample, factor=processor.patch_size * processor.merge_size)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = resize(pixels, size=size)
    if not own and resize(resized, size=size).shape != resized.shape:  # so long that it would shrink a second time
        return image.copy()
    return Image.fromarray(resized[0].permute(1, 2, 0).numpy())


def _digest(image: Image.Image) -> bytes:
    """Return what tells the image from others: its size and pixels, of which the processor makes the tower's input.

    Made here, because prompts are encoded on threads of their own: on the main one the GPU would wait for it. And made
    from the pixels, an eighth of the bytes that they become.
    """
    return blake2b(f"{image.mode} {image.size}".encode() + image.tobytes(), digest_size=16).digest()


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
