"""A recipe: a YAML file of settings, and the recipes that it extends."""

from pathlib import Path
from typing import Any

import yaml

from observe_r1.cli.flat_settings import flatten, nest
from observe_r1.config import Section, setting_names, validate
from observe_r1.errors import UserError, explain_yaml
from observe_r1.files import refuse_lfs_pointer


def read_recipe(path: Path, kind: type[Section], extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the settings that the recipe at `path` states, on top of those of the recipe that it `extends`.

    Required settings may be left for the command line; everything else is validated here, so that errors
    (`UserError`) name the file they come from.
    """
    if path.suffix in (".json", ".jsonl", ".parquet"):
        raise UserError(f"{path}: is data, not a recipe; give it as --data.path {path}")
    values = _load_yaml(path)
    parent = values.pop("extends", None)
    settings: dict[str, Any] = {}
    if parent is not None:
        settings = _read_parent(path, parent, kind, extended_by)
    settings |= flatten(kind, values, str(path))
    required = {name: "" for name, info in setting_names(kind).items() if info.is_required()}
    validate(kind, nest(required | settings), str(path))
    return settings


def _read_parent(path: Path, parent: Any, kind: type[Section], extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if not isinstance(parent, str):
        raise UserError(f"{path}: extends = {parent!r}: it should be the path of one recipe, relative to this one")
    chain = (*extended_by, path.resolve())
    target = path.parent / parent
    if target.resolve() in chain:
        raise UserError(f"{path}: extends = {parent!r}: recipes that extend each other never end")
    if not target.is_file():
        raise UserError(f"{path}: extends = {parent!r}: no such file: {target}")
    return read_recipe(target, kind, chain)


def _load_yaml(path: Path) -> dict[Any, Any]:
    if path.is_file():
        refuse_lfs_pointer(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        raise UserError(f"no recipe {str(path)!r}{_shipped(path)}") from error
    except OSError as error:
        raise UserError(f"cannot read recipe {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {explain_yaml(error)}") from error
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: a recipe holds sections (`model:`, `data:`, …), not {values!r:.60}")
    return values or {}


def _shipped(path: Path) -> str:
    candidate = Path("recipes", path.stem).with_suffix(".yaml")
    return f"; did you mean {str(candidate)!r}?" if candidate.is_file() else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one of the same name; a recipe should not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Errors: `ConstructorError` for a key that stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
