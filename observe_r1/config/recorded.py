"""Settings as a run writes them down: to be given again, and compared when it goes on."""

from typing import Any

from observe_r1 import __version__
from observe_r1.config.section import Section
from observe_r1.yaml_text import dump_yaml


def dump_settings(settings: Section) -> str:
    """Return every setting as YAML that can be given as a recipe."""
    values = settings.model_dump(mode="json")
    head = f"# observe-r1 {__version__}: every setting of this run; give this file as a recipe to repeat it.\n"
    return head + dump_yaml(values)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a recipe as settings by dotted name."""
    return {f"{section}.{name}": value for section, part in values.items() for name, value in part.items()}
