"""Settings by dotted name (`{"objective.bonus": 0.3}`): so the command line lays them over each other.

A later layer replaces a setting whole, so `rewards.functions: {accuracy: 1}` means accuracy alone.
"""

from typing import Any

from observe_r1.config import Section, setting_names
from observe_r1.errors import UserError
from observe_r1.registry import nearest


def default_settings(kind: type[Section]) -> dict[str, Any]:
    """Return the defaults of `kind` by dotted name, without those that a recipe must state.

    A kind may give a section defaults of its own (`SFTSettings.optimizer`). They hold for each setting alone:
    stating the learning rate does not bring back the section's general default for the minibatch.
    """
    defaults: dict[str, Any] = {}
    for name, info in setting_names(kind).items():
        section, _, setting = name.partition(".")
        if not kind.model_fields[section].is_required():
            defaults[name] = getattr(kind.model_fields[section].default, setting)
        elif not info.is_required():
            defaults[name] = info.default
    return defaults


def flatten(kind: type[Section], values: dict[Any, Any], source: str) -> dict[str, Any]:
    """Return a recipe's sections as settings by dotted name. Errors: `UserError` for an unknown one."""
    known = setting_names(kind)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kind.model_fields:
            flat[str(key)] = value
        elif isinstance(value, dict):
            flat |= {f"{key}.{name}": setting for name, setting in value.items()}
        elif value is not None:  # None: a section whose every line is commented out
            raise UserError(f"{source}: section {key!r} holds {value!r}; it should hold settings, one a line")
    for name in flat:
        if name not in known:
            raise UserError(f"{source}: unknown setting {name!r}{nearest(name, [*known, *kind.model_fields])}")
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name as the sections of a recipe."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, setting = name.partition(".")
        nested.setdefault(section, {})[setting] = value
    return nested
