"""The processor of a checkpoint: tokenizer, chat template and image preprocessing, tried once before they are used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor
from transformers.utils import logging as transformers_logging

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError
from observe_r1.model.checkpoint import brief
from observe_r1.model.hub import checkpoint_folder
from observe_r1.records import Message


def load_processor(settings: ModelSettings) -> Any:
    """Load the processor (tokenizer, chat template, image preprocessing) with the pixel bounds of `settings`.

    Raises:
        UserError: One of them is missing, damaged or of no use for images.
    """
    folder = checkpoint_folder(settings.path, trust_code=settings.trust_remote_code, weights=False)
    with quietly():
        return read_processor(folder, f"model.path = {settings.path!r}", settings)


def read_processor(folder: Path, place: str, settings: ModelSettings) -> Any:
    """Return the processor in a folder, tried on a question with an image.

    Args:
        folder: Of the checkpoint, its files checked.
        place: Setting and value, with which errors begin.
        settings: `model`: pixel bounds, and whether code in the checkpoint may be run.

    Raises:
        UserError: As `load_processor`.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            folder,
            size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},  # in pixels, all of them
            trust_remote_code=settings.trust_remote_code,
        )
    except Exception as error:  # whatever values of the wrong kind make transformers raise
        raise UserError(f"{place}: its processor or tokenizer cannot be read: {brief(error)}") from error
    if not hasattr(processor, "image_processor"):
        raise UserError(f"{place}: its processor takes no images")
    _check_template(processor, place)
    _check_images(processor, place)
    return processor


def _check_images(processor: Any, place: str) -> None:
    try:
        made = processor.image_processor(images=[Image.new("RGB", (64, 64), "red")], return_tensors="pt")
    except Exception as error:  # whatever values of the wrong kind make transformers raise
        raise UserError(f"{place}: its image processor's settings are not valid: {brief(error)}") from error
    if not made["pixel_values"].isfinite().all():
        raise UserError(f"{place}: its image processor makes NaN or infinite pixels: correct its image_mean, image_std")


def _check_template(processor: Any, place: str) -> None:
    if not processor.chat_template:
        raise UserError(
            f"{place}: no chat template: copy chat_template.jinja (or chat_template.json) from the instruction-tuned "
            "model that this one is from; a base model has none"
        )
    question = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
    text = render_chat([{"role": "user", "content": question}], processor, place)
    image = getattr(processor, "image_token_id", None)
    if not isinstance(image, int):
        raise UserError(f"{place}: the tokenizer has no image token: it is another model's")
    try:
        ids = processor.tokenizer(text)["input_ids"]
        back = processor.tokenizer.decode(ids)
    except Exception as error:  # whatever values of the wrong kind in its settings make it raise
        raise UserError(f"{place}: its tokenizer fails: {brief(error)}: correct tokenizer_config.json") from error
    if "".join(back.split()) != "".join(text.split()):
        raise UserError(f"{place}: the tokenizer loses text: of {text!r:.80} it keeps {back!r:.80}: fetch it again")
    if (places := ids.count(image)) != 1:
        raise UserError(
            f"{place}: the chat template leaves {places} places for one image: it is another model's, or for text alone"
        )


def render_chat(messages: Sequence[Message], processor: Any, place: str) -> str:
    """Return a chat as the model's template writes it, up to where the response starts.

    Args:
        messages: Turns whose images are parts without content.
        processor: Of the model.
        place: Row or setting, with which errors begin.

    Raises:
        UserError: The template fails, or leaves out what a user or the system says.
    """
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
    return ", or, if it takes no system turn, give --data.format_prompt_place suffix" if has_system else ""


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' warnings: what they warn of is checked here and ends in an error."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
