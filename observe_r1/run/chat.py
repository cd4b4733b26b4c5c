"""One question after another to a model, each about the images that are shown with it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from observe_r1.config import ChatSettings, ModelSettings, QuestionSettings
from observe_r1.data.chat import parse_chat
from observe_r1.data.format_prompts import asked_format
from observe_r1.data.images import PrivateImageError
from observe_r1.errors import UserError
from observe_r1.model.device import compute_dtype
from observe_r1.model.encoding import PromptTooLongError, encode_prompt
from observe_r1.model.generation import stream_answer
from observe_r1.model.loading import load_model
from observe_r1.model.saving import trained_format
from observe_r1.records import Example, Prompt

_PLACE = "the question"


class ChatModel:
    """A model that is asked questions.

    Args:
        settings: Of the chat.

    Raises:
        UserError: The model cannot be loaded.
    """

    def __init__(self, settings: ChatSettings) -> None:
        loading = ModelSettings(**settings.model.model_dump())
        self._options = settings.chat
        self._dtype = compute_dtype(loading)
        self._vlm = load_model(loading, frozen=True)
        self._vlm.model.eval()
        asked: str = self._options.format_prompt
        trained, where = trained_format(settings.model.path)
        if asked == "auto":
            asked = "observe" if trained == "none" else trained
        self._asked = QuestionSettings.model_validate({"format_prompt": asked, "format_prompt_place": where})
        torch.manual_seed(self._options.seed)

    def answer(self, question: str, images: Sequence[str], write: Callable[[str], None]) -> bool:
        """Answer a question, which knows nothing of those before it: the model was trained on single questions.

        Args:
            question: What is asked.
            images: Files or http(s) addresses.
            write: Is given the answer, a word or so at a time.

        Returns:
            Whether the answer was cut off at `chat.max_new_tokens`, before its own end.

        Raises:
            UserError: An image cannot be opened, or the model cannot take the question.
        """
        shown = [{"type": "image", "image": image} for image in images]
        turn = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
        chat = parse_chat([turn], _PLACE, Path.cwd())
        example = Example(id="", messages=chat.messages, images=chat.images, answer="", origin=_PLACE)
        return stream_answer(
            self._vlm,
            self._encoded(example),
            write,
            dtype=self._dtype,
            temperature=self._options.temperature,
            max_new_tokens=self._options.max_new_tokens,
        )

    def _encoded(self, example: Example) -> Prompt:
        """Return the question as the model takes it; what is wrong with it is said in the words of a chat."""
        asked = self._asked
        if asked_format(example.messages) != "none":  # the question brings its own prompt along
            asked = asked.model_copy(update={"format_prompt": "none"})
        try:
            return encode_prompt(example, self._vlm.processor, asked)
        except PromptTooLongError as error:
            raise UserError(
                f"{_PLACE}: {error.tokens:,} tokens with its images, of {asked.max_prompt_tokens:,} that a chat takes: "
                "shorten it, or show fewer or smaller images"
            ) from error
        except PrivateImageError as error:
            raise UserError(f"{error.refused}: download it and name the file") from error
