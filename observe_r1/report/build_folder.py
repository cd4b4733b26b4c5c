"""The build folder of a ladder, as its reports read it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observe_r1.config import LadderSettings, QuestionSettings, validate
from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError
from observe_r1.ladder.measuring import in_words, read_asked

_FOLDERS = re.compile(r"""(^|[\s:'"])/(?:[^/\n]+/)+""")


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """Where things stand in a build folder."""

    path: Path
    settings: str
    """`ladder.yaml`, of absolute paths only the last name; empty without one."""
    measured: Path
    """Folder of the measurement whose figures count, by `arrange.measured`."""
    data: QuestionSettings
    """How its pictures are opened."""
    format_prompt: str
    """As `arrange.format_prompt`: the prompt that stands in every question already, or `none`."""
    asked: str
    """What the model was asked for in that measurement, in words; empty where it is not known."""
    model: str
    """As `model.path` of that measurement, shortened alike; empty where it is not known."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name


def open_build(folder: Path) -> BuildFolder:
    """Read the settings that the reports need from `ladder.yaml`; without it they have their defaults.

    Errors: `UserError` for a file that holds no settings of a ladder.
    """
    text, settings = _settings(folder)
    measured = folder / settings.arrange.measured
    asked = read_asked(measured)
    return BuildFolder(
        path=folder,
        settings=_shortened(text),
        measured=measured,
        data=settings.data,
        format_prompt=settings.arrange.format_prompt,
        asked=in_words(asked.format_prompt) if asked else "",
        model=_shortened(_settings(measured)[1].model.path or ""),
    )


def _settings(folder: Path) -> tuple[str, LadderSettings]:
    """Return `ladder.yaml` as it stands, and what it says."""
    path = folder / "ladder.yaml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not settings in YAML: {' '.join(str(error).split())}") from error
    return text, validate(LadderSettings, values, str(path))


def _shortened(text: str) -> str:
    """Return `text` without the folders of absolute paths: what is published names nobody's home."""
    return _FOLDERS.sub(r"\1", text)


def read_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a file that a build may lack, read one at a time."""
    return JsonRows(path) if path.exists() else ()
