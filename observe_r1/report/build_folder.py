"""The build folder of a ladder, as its reports read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observe_r1.config import LadderSettings
from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """Where things stand in a build folder."""

    path: Path
    settings: str
    """`ladder.yaml` as it stands; empty without one."""
    measured: Path
    """Folder of the measurement whose figures count, by `arrange.measured`."""
    image_cache: str
    """As `data.image_cache`."""
    format_prompt: str
    """As `arrange.format_prompt`: the prompt that stands in every question already, or `none`."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name


def open_build(folder: Path) -> BuildFolder:
    """Read the settings that the reports need from `ladder.yaml`; without it they have their defaults.

    Errors: `UserError` for a file that is not YAML.
    """
    path, default = folder / "ladder.yaml", LadderSettings()
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    try:
        values = yaml.safe_load(text) or {}
        arranging, data = values.get("arrange", {}), values.get("data", {})
        return BuildFolder(
            path=folder,
            settings=text,
            measured=folder / arranging.get("measured", default.arrange.measured),
            image_cache=data.get("image_cache", default.data.image_cache),
            format_prompt=arranging.get("format_prompt", default.arrange.format_prompt),
        )
    except (yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{path}: not settings in YAML: {' '.join(str(error).split())}") from error


def read_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a file that a build may lack, read one at a time."""
    return JsonRows(path) if path.exists() else ()
