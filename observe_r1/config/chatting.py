"""The settings of `observe-r1 chat`."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from observe_r1.config.ladder import LadderModelSettings
from observe_r1.config.section import NonEmptyText, PathText, Section


class ChatModelSettings(LadderModelSettings):
    """The model that answers."""

    path: PathText
    """Folder or Hub name of a Hugging Face checkpoint."""


class ChatOptions(Section):
    """What the model is asked, and how it answers."""

    ask: NonEmptyText | None = None
    """One question; the command ends after its answer. Without it, questions are typed."""
    image: tuple[NonEmptyText, ...] = ()
    """Images that the questions are about: files or http(s) addresses, with commas between them."""
    format_prompt: Literal["auto", "observe", "think", "none"] = "auto"
    """Which text asks for the response format; `auto` takes the one that the model was trained with, and `observe`
    if its folder does not say."""
    temperature: float = 0.0
    """Sampling temperature, from 0.001 to 1000; 0 takes the most probable token."""
    max_new_tokens: int = Field(2048, ge=1)
    """Longest answer, in tokens."""
    seed: int = Field(0, ge=0)
    """Seeds the sampling."""
    web: bool = False
    """Ask and answer on a page in the browser of this machine (needs the extra `web`)."""
    port: int | None = Field(None, ge=1, le=65535)
    """Port of the page; by default the first free one from 7860 on."""

    @field_validator("temperature")
    @classmethod
    def _scores_stay_finite(cls, value: float) -> float:
        if value and not 1e-3 <= value <= 1e3:
            raise ValueError("should be 0, which takes the most probable token, or from 0.001 to 1000")
        return value

    @model_validator(mode="after")
    def _one_way_to_ask(self) -> Self:
        if self.web and self.ask is not None:
            raise ValueError("chat.ask is answered in the terminal: leave it or chat.web out")
        if self.web and len(self.image) > 1:
            raise ValueError("chat.image: the page shows one image: give one")
        if self.port is not None and not self.web:
            raise ValueError("chat.port needs chat.web")
        return self


class ChatSettings(Section):
    """All of `observe-r1 chat`."""

    model: ChatModelSettings
    chat: ChatOptions = ChatOptions()
