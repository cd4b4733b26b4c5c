"""What every section of the settings is, and how a bad value becomes one line."""

import os
import re
from functools import partial
from os.path import expanduser
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from observe_r1 import registry
from observe_r1.errors import UserError

_LONGEST_NAME = 255
"""Bytes. No file system has longer names, and most functions fail on them."""
_MOST = 2**31 - 1
"""No count here is sensible above this, and not every library takes more."""


def registered(kind: str) -> AfterValidator:
    """Return a validator that takes the names registered under `kind`."""
    return AfterValidator(partial(_known, kind))


def _known(kind: str, name: str) -> str:
    try:
        return registry.check(kind, name)
    except UserError as error:
        raise ValueError(str(error)) from error


def registry_of(info: FieldInfo) -> str | None:
    """Return the kind of registered names that a setting takes, None for any other setting."""
    for part in info.metadata:
        if isinstance(part, AfterValidator) and isinstance(part.func, partial) and part.func.func is _known:
            return str(part.func.args[0])
    return None


def plain_names(text: str) -> str:
    """Take paths, separated by commas.

    Raises:
        ValueError: a name in them is too long for any file system.
    """
    if any(len(os.fsencode(name)) > _LONGEST_NAME for name in re.split("[/,]", text)):
        raise ValueError(f"a name in it is longer than {_LONGEST_NAME} bytes, the limit of file systems")
    return text


NamesText = Annotated[str, AfterValidator(plain_names)]
"""One path or Hub name, or several, separated by commas."""
PathText = Annotated[NamesText, AfterValidator(expanduser)]
"""A path or Hub name; `~` is the home folder."""
NonEmptyText = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings; unknown keys are errors, and values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def changed(self) -> list[str]:
        """Return the names of the settings that do not have their defaults."""
        return [name for name, info in type(self).model_fields.items() if getattr(self, name) != info.default]

    @field_validator("*", mode="before")
    @classmethod
    def _plain_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what Python takes for a number and a reader does not: `true` as 1, `010` as 10 (or was it 8?)."""
        if any(leaf in (int, float) for leaf in _leaves(cls.model_fields[str(info.field_name)].annotation)):
            for item in _items(value):
                if isinstance(item, bool):
                    raise ValueError("should be a number")
                if isinstance(item, str) and re.match(r"\s*[-+]?0[0-9_]", item):
                    raise ValueError("should be a number without a leading zero")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _within_reason(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse counts that overflow somewhere, and text that can neither be written to a file nor name one."""
        counts = int in _leaves(cls.model_fields[str(info.field_name)].annotation)
        for item in [*_items(value), *(value if isinstance(value, dict) else ())]:
            if counts and abs(item or 0) > _MOST:
                raise ValueError(f"should be at most {_MOST}")
            if isinstance(item, str) and "\0" in item:
                raise ValueError("contains a NUL byte")
            if isinstance(item, str):
                os.fsencode(item)  # raises a ValueError for half of a character
        return value


def _leaves(annotation: Any) -> list[Any]:
    """Return the types that a setting's type is made of."""
    parts = get_args(annotation)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [annotation]


def _items(value: Any) -> list[Any]:
    """Return the values in `value`, or the value itself if it is no list or mapping."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


S = TypeVar("S", bound=Section)


def validate(kind: type[S], values: dict[str, Any], source: str, *, together: str | None = None) -> S:
    """Return `values` as settings.

    Args:
        kind: The class of the settings.
        values: By section.
        source: Where a value comes from, for errors.
        together: Where all of them come from, for errors about contradictions; `source` by default.

    Raises:
        UserError: one line that names the key, its value and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = together if together and not _is_of_one_setting(first) else source
        raise UserError(f"{place}: {_explain(kind, first)}") from error


def validate_each(kind: type[Section], values: dict[str, Any], source: str) -> None:
    """Check each of `values` by itself, not whether they contradict each other.

    Raises:
        UserError: as `validate`.
    """
    try:
        kind.model_validate(values)
    except ValidationError as error:
        for first in filter(_is_of_one_setting, error.errors()):
            raise UserError(f"{source}: {_explain(kind, first)}") from error


_IN_WORDS = {
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "string_too_short": "should not be empty",
    "string_type": "should be text (in a recipe, text that looks like something else needs quotes)",
}
"""What pydantic's types of errors mean to somebody who does not know pydantic."""


def _is_of_one_setting(error: Any) -> bool:
    return len(error["loc"]) > 1


def setting_names(kind: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return every setting of `kind` by its dotted name."""
    names: dict[str, FieldInfo] = {}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            names |= setting_names(info.annotation, f"{prefix}{name}.")
        else:
            names[prefix + name] = info
    return names


def _explain(kind: type[Section], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")  # pydantic's word for a key of a mapping
    if error["type"] == "extra_forbidden":
        known = list(setting_names(kind)) + list(kind.model_fields)
        return f"unknown setting {key!r}{registry.nearest(key, known)}"
    if error["type"] == "missing":
        return f"setting {key!r} is missing"
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    reason = _IN_WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    reason = re.sub("^Input should ", "should ", reason)
    if error.get("ctx", {}).get("min_length") == 1:
        reason = "should not be empty"
    if not key and error["type"] != "value_error":
        return f"should hold settings, section by section, not {error['input']!r:.60}"
    return f"{key}{value}: {reason}" if _is_of_one_setting(error) or error["type"] != "value_error" else reason
