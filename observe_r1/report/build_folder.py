"""A ladder's folder as its reports read it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observe_r1.config import LadderSettings, QuestionSettings, validate
from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError
from observe_r1.ladder.difficulty import in_words, read_asked
from observe_r1.ladder.stage import RECORDED
from observe_r1.web import without_password

_FOLDERS = re.compile(r"""(^|[\s:'"])/(?:[^/\n]+/)+""")


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """The settings of a ladder that its reports need."""

    path: Path
    settings: str
    """The text of `ladder.yaml`, with only the last name of absolute paths; empty if there is none."""
    measured: Path
    """The folder of the measurement that the ladder uses (`arrange.measured`)."""
    data: QuestionSettings
    """How its images are opened."""
    format_prompt: str
    """`arrange.format_prompt`: the prompt that every question already contains, or `none`."""
    asked: str
    """What the model was asked for in that measurement, in words; empty if unknown."""
    model: str
    """`model.path` of that measurement, shortened in the same way; empty if unknown."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name


def open_build(folder: Path) -> BuildFolder:
    """Read the settings that the reports need from `ladder.yaml`; without that file they have their defaults.

    Raises:
        UserError: The file holds no settings of a ladder.
    """
    text, settings = _settings(folder)
    measured = folder / settings.arrange.measured
    asked = read_asked(measured)
    return BuildFolder(
        path=folder,
        settings=_shortened(without_password(text)),
        measured=measured,
        data=settings.data,
        format_prompt=settings.arrange.format_prompt,
        asked=in_words(asked.format_prompt) if asked else "",
        model=_shortened(_settings(measured)[1].model.path or ""),
    )


def _settings(folder: Path) -> tuple[str, LadderSettings]:
    """Return the text of `ladder.yaml`, and the settings in it."""
    path = folder / RECORDED
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not settings in YAML: {' '.join(str(error).split())}") from error
    return text, validate(LadderSettings, values, str(path))


def _shortened(text: str) -> str:
    """Return `text` without the folders of absolute paths: a published page names nobody's home folder."""
    return _FOLDERS.sub(r"\1", text)


def optional_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a file, read one at a time; none if there is no such file."""
    return JsonRows(path) if path.exists() else ()
