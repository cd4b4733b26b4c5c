"""The settings of `observe-r1 ladder push`."""

from typing import Self

from pydantic import model_validator

from observe_r1.config.section import NonEmptyText, PathText, Section


class PushOptions(Section):
    """What is published, and where to."""

    ladder: PathText
    """Folder of a ladder."""
    repo: NonEmptyText | None = None
    """Name of the dataset on the Hugging Face Hub, USER/NAME."""
    to: PathText | None = None
    """Folder that is made and kept: what is uploaded; without `repo` nothing is."""
    private: bool = True
    """Make the dataset private if it does not exist yet."""

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.repo is None and self.to is None:
            raise ValueError("push.repo, a name on the Hub (USER/NAME), or push.to, a folder, is missing")
        return self


class PushSettings(Section):
    """All of `observe-r1 ladder push`."""

    push: PushOptions
