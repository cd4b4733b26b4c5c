"""A recipe: a YAML file of settings, and the recipes that it extends. The packaged ones go by their names alone.

Settings are held flat, by dotted name (`{"objective.bonus": 0.3}`), so that the command line can lay one layer over
another. A later layer replaces a setting whole: `rewards.functions: {accuracy: 1}` means accuracy alone.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from observe_r1.cli.commands import COMMANDS
from observe_r1.config import Section, nest, setting_names, validate_each
from observe_r1.errors import UserError
from observe_r1.registry import beside, nearest, resolve
from observe_r1.yaml_text import read_yaml

_PACKAGED = Path(__file__).parents[1] / "recipes"
_MOST_EXTENDED = 16
_OTHER_VERBS = {"sft": "sft", "ladder": "ladder build"}
"""By the last part of a packaged recipe's name, the command that it is for; all others are for `train`."""


@cache
def packaged_recipes(kind: type[Section] = Section) -> tuple[str, ...]:
    """Return the names of the recipes that come with the package, such as `observe_r1` and `tiny/grpo`.

    Args:
        kind: The settings of a command: only its own recipes; by default those of all commands.
    """
    names = sorted(path.relative_to(_PACKAGED).with_suffix("").as_posix() for path in _PACKAGED.rglob("*.yaml"))
    return tuple(name for name in names if kind is Section or issubclass(kind, _settings_of(_verb(name))))


def _verb(packaged: str) -> str:
    """Return the command that a packaged recipe is for; `plan` takes those of `train`."""
    return _OTHER_VERBS.get(packaged.rpartition("/")[2], "train")


def _settings_of(verb: str) -> type[Section]:
    kind: type[Section] = resolve(COMMANDS[verb].settings)
    return kind


def read_recipe(word: str, kind: type[Section]) -> dict[str, Any]:
    """Read a recipe on top of the one that it `extends`.

    Each setting is validated here, so that an error names the file it comes from. Required settings may be missing, and
    settings may contradict each other: the command line may still change them.

    Args:
        word: A path, or the name of a packaged recipe.
        kind: The settings that it may hold.

    Returns:
        The settings that it holds, by dotted name.

    Raises:
        UserError: there is no such recipe, it is broken, or a setting in it is unknown or has a bad value.
    """
    path = _find(word, Path(), kind)
    if path is None:
        raise UserError(f"no recipe {word!r:.300}{_hint(word, Path(), kind)}")
    return _read(path, kind, ())


def _read(path: Path, kind: type[Section], extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if path.suffix in (".json", ".jsonl", ".parquet"):
        raise UserError(f"{path}: this is data, not a recipe; give it as --data.path {path}")
    if path.is_dir():
        raise UserError(f"{path}: this is a folder, not a recipe; if it holds data, give it as --data.path {path}")
    values = read_yaml(path)
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: a recipe holds sections (`model:`, `data:`, …), not {values!r:.60}")
    values = values or {}
    parent = values.pop("extends", None)
    settings = {} if parent is None else _read_parent(path, parent, kind, (*extended_by, path))
    settings |= flatten(kind, values, str(path))
    required = {name: "" for name, info in setting_names(kind).items() if info.is_required()}
    validate_each(kind, nest(required | settings), str(path))
    return settings


def _read_parent(path: Path, parent: Any, kind: type[Section], chain: tuple[Path, ...]) -> dict[str, Any]:
    place = f"{path}: extends = {parent!r:.300}"
    if not isinstance(parent, str):
        raise UserError(f"{place}: give one recipe: its path, relative to this file, or a packaged recipe's name")
    target = _find(parent, path.parent, kind)
    if target is None:
        raise UserError(f"{place}: no such file{_hint(parent, path.parent, kind)}")
    if any(target.samefile(other) for other in chain):
        raise UserError(f"{place}: these recipes extend each other in a circle")
    if len(chain) > _MOST_EXTENDED:
        raise UserError(f"{place}: the {len(chain)}th recipe in a row; at most {_MOST_EXTENDED} may extend each other")
    return _read(target, kind, chain)


def _find(word: str, folder: Path, kind: type[Section]) -> Path | None:
    """Return the recipe that `word` means, seen from `folder`: a packaged one by its name, else a file.

    Raises:
        UserError: It is a packaged one of another command.
    """
    if word in packaged_recipes():
        if word not in packaged_recipes(kind):
            raise UserError(f"{word!r} is a recipe of `observe-r1 {_verb(word)}`{_listed(kind)}")
        return (_PACKAGED / word).with_suffix(".yaml")
    # Path.exists raises for some of the names that no file can have.
    return folder / word if os.path.exists(folder / word) else None  # noqa: PTH110


def _hint(word: str, folder: Path, kind: type[Section]) -> str:
    """Name the packaged recipes, first the one or the file, seen from `folder`, that `word` may mean."""
    known, name = packaged_recipes(kind), word.removeprefix("recipes/").removesuffix(".yaml")
    meant = f" (did you mean {name!r}?)" if name in known else nearest(name, known)
    meant = meant or beside(folder / word, lambda path: path.suffix in (".yaml", ".yml"))
    return f"{meant}{_listed(kind)}"


def _listed(kind: type[Section]) -> str:
    known = packaged_recipes(kind)
    return f"; packaged recipes for this command, by their names alone: {', '.join(known)}" if known else ""


def default_settings(kind: type[Section]) -> dict[str, Any]:
    """Return the defaults of `kind` by dotted name, without required settings.

    A kind may give a section its own defaults (`SFTSettings.optimizer`). They hold for each setting separately: a
    recipe that sets the learning rate does not bring back the general default of the minibatch.
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
    """Return a recipe's sections as settings by dotted name.

    Raises:
        UserError: one is unknown.
    """
    known = setting_names(kind)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kind.model_fields:
            flat[str(key)] = value
        elif isinstance(value, dict):
            flat |= {f"{key}.{name}": setting for name, setting in value.items()}
        elif value is not None:  # None: a section whose every line is commented out
            raise UserError(f"{source}: section {key!r} is {value!r}; it should hold settings, one per line")
    for name in flat:
        if name not in known:
            hint = _whose(flat) or nearest(name, [*known, *kind.model_fields])
            raise UserError(f"{source}: unknown setting {name!r}{hint}")
    return flat


def _whose(settings: Mapping[str, Any]) -> str:
    """Name the first command that has all of these settings; empty if none has."""
    names: set[str] = set()
    for name, value in settings.items():  # a section that the command does not have is still one value
        whole = isinstance(value, dict) and "." not in name
        names |= {f"{name}.{setting}" for setting in value} if whole else {name}
    takes_recipes = (each for each in COMMANDS.values() if each.settings and each.words in ("recipe", "sources"))
    owners = (each.name for each in takes_recipes if names <= setting_names(resolve(each.settings)).keys())
    owner = next(owners, None)
    return f": these are settings of `observe-r1 {owner}`" if owner else ""
