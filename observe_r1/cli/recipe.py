"""A recipe: a YAML file of settings, and the recipes that it extends. The packaged ones go by their names alone."""

import os
from pathlib import Path
from typing import Any

from observe_r1.cli.flat_settings import flatten, nest
from observe_r1.config import Section, setting_names, validate_each
from observe_r1.errors import UserError
from observe_r1.registry import nearest
from observe_r1.yaml_text import read_yaml

_PACKAGED = Path(__file__).parents[1] / "recipes"
_MOST_EXTENDED = 16


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that come with the package, such as `observe_r1` and `tiny/grpo`."""
    return sorted(path.relative_to(_PACKAGED).with_suffix("").as_posix() for path in _PACKAGED.rglob("*.yaml"))


def read_recipe(word: str, kind: type[Section]) -> dict[str, Any]:
    """Return the settings that a recipe states, on top of those of the recipe that it `extends`.

    Required settings, and what settings must be to each other, may be left for the command line; everything else is
    validated here, so that errors (`UserError`) name the file they come from.

    Args:
        word: A path, or the name of a packaged recipe.
        kind: The settings that it may state.
    """
    path = _find(word, Path())
    if path is None:
        raise UserError(f"no recipe {word!r:.300}{_hint(word)}")
    return _read(path, kind, ())


def _read(path: Path, kind: type[Section], extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if path.suffix in (".json", ".jsonl", ".parquet"):
        raise UserError(f"{path}: is data, not a recipe; give it as --data.path {path}")
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
        raise UserError(
            f"{place}: it should be the path of one recipe, relative to this one, or a packaged recipe's name"
        )
    target = _find(parent, path.parent)
    if target is None:
        raise UserError(f"{place}: no such file{_hint(parent)}")
    if any(target.samefile(other) for other in chain):
        raise UserError(f"{place}: recipes that extend each other never end")
    if len(chain) > _MOST_EXTENDED:
        raise UserError(f"{place}: the {len(chain)}th recipe in a row; {_MOST_EXTENDED} may extend each other")
    return _read(target, kind, chain)


def _find(word: str, folder: Path) -> Path | None:
    """Return the recipe that `word` means, seen from `folder`: a packaged one by its name, else what has this path."""
    if word in packaged_recipes():
        return (_PACKAGED / word).with_suffix(".yaml")
    # Path.exists raises for some of the names that no file can have.
    return folder / word if os.path.exists(folder / word) else None  # noqa: PTH110


def _hint(word: str) -> str:
    """Name the packaged recipes, first the one that `word` may mean."""
    known, name = packaged_recipes(), word.removeprefix("recipes/").removesuffix(".yaml")
    meant = f" (did you mean {name!r}?)" if name in known else nearest(name, known)
    return f"{meant}; packaged recipes, by their names alone: {', '.join(known)}"
