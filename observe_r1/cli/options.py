"""From the words of a command to settings: a recipe, options over it, the flags of OpenRLHF between the two.

    observe-r1 train grpo --rollout.group_size 16 --objective.bonus=0.3

Layers, each over the one before: defaults, recipe, flags of OpenRLHF, options.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

from observe_r1.cli.commands import COMMANDS
from observe_r1.cli.recipe import default_settings, read_recipe
from observe_r1.cli.words import CommandLine, read_words
from observe_r1.config import Section, flat, nest, setting_names, validate
from observe_r1.config.idle import unmet_need
from observe_r1.errors import UserError
from observe_r1.yaml_text import parse_yaml

S = TypeVar("S", bound=Section)


def parse_settings(kind: type[S], argv: Sequence[str], *, verb: str) -> S:
    """Return the settings that the words of a command ask for; notes on flags of OpenRLHF go to stderr.

    Args:
        kind: The class of the settings.
        argv: The words after the command's name.
        verb: The command's name, a key of `COMMANDS`.

    Raises:
        UserError: an option is unknown, a value is missing or bad, a recipe is broken or cannot be read, a required
            setting is missing, settings contradict each other, or the folder that a command needs is not there.
    """
    given = read_words(COMMANDS[verb], kind, argv)
    if given.flags:
        from observe_r1.cli.openrlhf.convert import convert_hint

        print(f"observe-r1: {convert_hint(verb, argv)}", file=sys.stderr)
    return settings_of(kind, given)


def settings_of(kind: type[S], given: CommandLine) -> S:
    """Lay the layers of a command line over each other and validate the result.

    Raises:
        UserError: as `parse_settings`.
    """
    names = setting_names(kind)
    options = {name: parse_value(names[name], text, f"--{name}") for name, text in given.options.items()}
    if given.sources:
        options["data.sources"] = given.sources
    settings = default_settings(kind)
    if given.recipe is not None:
        settings |= read_recipe(given.recipe, kind)
    if given.flags:
        settings |= _translated(given, names, settings, options)
    settings |= options
    for name, info in names.items():
        if info.is_required() and name not in settings:
            raise UserError(f"setting {name!r} is missing: write it in a recipe or give --{name}")
    together = f"{given.recipe} and the command line" if given.recipe else "command line"
    validated = validate(kind, nest(settings), "command line", together=together)
    _refuse_idle(given.options, validated)
    return validated


def _refuse_idle(options: Mapping[str, str], settings: Section) -> None:
    """Raise `UserError` for an option without effect. A recipe may have such settings: an option may turn them off."""
    values, defaults = flat(settings.model_dump()), default_settings(type(settings))
    for name, text in options.items():
        if values.get(name) != defaults.get(name) and (need := unmet_need(name, values)):
            raise UserError(f"--{name} {text} has no effect without {need}: give that too, or leave it out")


def _translated(
    given: CommandLine, names: Mapping[str, FieldInfo], settings: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the flags of OpenRLHF set, and print what the user must know about them."""
    from observe_r1.cli.openrlhf.flags import translate

    def read(setting: str, value: Any) -> Any:
        return parse_value(names[setting], value, setting) if isinstance(value, str) else value

    changes, notes = translate(given.flags, settings, options, names, read, has_recipe=given.recipe is not None)
    for note in notes:
        print(f"observe-r1: {note}", file=sys.stderr)
    return changes


def parse_value(info: FieldInfo, text: str, source: str) -> Any:
    """Return the text of an option as pydantic is to validate it for the setting `info`.

    Scalars stay text: pydantic reads numbers and booleans itself (`1e-6` too, which YAML 1.1 takes for a string), and a
    text setting gets text even if it looks like a number. `null` unsets an optional setting. Lists are comma-separated
    or YAML, mappings `a=1,b=2` or YAML.
    """
    optional = type(None) in get_args(info.annotation)
    if optional and text == "null":
        return None
    inner: Any = info.annotation
    if optional:
        inner = next(kind for kind in get_args(inner) if kind is not type(None))
    shape = get_origin(inner)
    if shape not in (tuple, dict):
        return text
    if text.lstrip().startswith(("[", "{")):
        return parse_yaml(text, f"{source} = {text!r:.300}")
    items = [item.strip() for item in text.split(",")] if text else []
    if shape is tuple:
        return items
    pairs = [item.rpartition("=") for item in items]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise UserError(f"{source} = {text!r}: write it as name=value,name=value")
    return {name.strip(): parse_yaml(value, f"{source} = {text!r:.300}") for name, _, value in pairs}
