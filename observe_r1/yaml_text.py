"""YAML that people write, read strictly, and written so that it reads back the same.

Numbers, `true`, `false` and `null` are those of YAML 1.2, so `1e-6` is a number; everything else is text: `on`, `no`,
`1:30`, `010`, `2001-12-31`, `<<`. Whatever could make a small file grow without end is refused: anchors and aliases,
tags, deep nesting, files over a megabyte, pipes and devices.
"""

import re
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import yaml
from yaml.reader import ReaderError

from observe_r1.errors import UserError, explain_yaml
from observe_r1.files import LFS_POINTER

_MOST_BYTES = 1 << 20
_DEEPEST = 32
"""Levels of mappings and lists inside each other."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,99})", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
"""What a plain word may mean other than text, with the characters that it may begin with."""


def read_yaml(path: Path) -> Any:
    """Return what the YAML file at `path` holds.

    Raises:
        UserError: it cannot be read; file, line and fix are named.
    """
    try:
        mode = path.stat().st_mode
        if not S_ISREG(mode):
            kind = "a folder" if S_ISDIR(mode) else "a pipe or a device"
            raise UserError(f"cannot read {str(path)!r}: it is {kind}; give a YAML file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r:.300}: {error.strerror}") from error
    except ValueError as error:  # a NUL byte, half of a character
        raise UserError(f"cannot read {str(path)!r:.300}: no file can have this name ({error})") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path}: longer than 1 MiB, so this is not a file of settings")
    if data.startswith(LFS_POINTER):
        raise UserError(f"{path}: is a Git LFS pointer, not the file itself: run `git lfs pull`")
    try:
        return parse_yaml(data.decode(), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 text (byte {error.start}); give a YAML file") from error


def parse_yaml(text: str, source: str) -> Any:
    """Return what `text` says.

    Raises:
        UserError: it is broken; `source`, line and column are named.
    """
    try:
        loader = _StrictLoader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{source}: line {line}: broken YAML: {str(error).splitlines()[0]}") from error
    try:
        return loader.get_single_data()
    except _RefusedError as error:
        raise UserError(f"{source}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: {explain_yaml(error)}") from error
    except (ValueError, OverflowError) as error:  # PyYAML's own, for an escape or a version out of range
        raise UserError(f"{source}: line {loader.line + 1}: broken YAML: {error}") from error


def dump_yaml(values: Any) -> str:
    """Return plain `values` as YAML, in their order, with text quoted if it could be read as something else."""
    return yaml.dump(values, Dumper=_PlainDumper, sort_keys=False)


class _RefusedError(Exception):
    """Valid YAML that no settings need."""

    def __init__(self, reason: str, where: yaml.Event | yaml.Node) -> None:
        mark: Any = where.start_mark
        super().__init__(f"line {mark.line + 1}, column {mark.column + 1}: {reason}")


class _StrictLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 (as PyYAML has it)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one value and what is in it, and refuse what is not supported."""
        event: Any = self.peek_event()
        if event.anchor is not None:
            raise _RefusedError("anchors and aliases (&name, *name) are not supported: write the value out", event)
        if event.tag is not None:
            name = event.tag.replace(_TAG, "!!")
            raise _RefusedError(f"the tag {name} is not supported: write the value without it, text in quotes", event)
        if self._depth == _DEEPEST:
            raise _RefusedError(f"nested deeper than {_DEEPEST} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. PyYAML lets a later key silently replace an earlier one; here a duplicate is an error.

        Raises:
            _RefusedError: a key is there twice, or is no text.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != f"{_TAG}str":
                raise _RefusedError("this key is not text: put it in quotes", key)
            if key.value in seen:
                raise _RefusedError(f"duplicate key {key.value!r:.80}", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


for _name, _words, _first in _SCALARS:
    _pattern = re.compile(f"(?:{_words})\\Z")
    _StrictLoader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    _PlainDumper.add_implicit_resolver(_TAG + _name, _pattern, _first)
