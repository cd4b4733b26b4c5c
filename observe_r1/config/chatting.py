"""The settings of `observe-r1 chat`."""

from typing import Literal

from pydantic import Field

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
    where its folder does not say."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 takes the most probable token."""
    max_new_tokens: int = Field(2048, ge=1)
    """Longest answer, in tokens."""
    seed: int = Field(0, ge=0)
    """Seeds the sampling."""


class ChatSettings(Section):
    """All of `observe-r1 chat`."""

    model: ChatModelSettings
    chat: ChatOptions = ChatOptions()
