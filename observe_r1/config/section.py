"""What every section of the settings is, and errors of one line."""

import os
import re
from os.path import expanduser
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from observe_r1 import registry
from observe_r1.errors import UserError


def registered(kind: str) -> AfterValidator:
    """Return a validator that takes the names registered under `kind`."""

    def known(name: str) -> str:
        try:
            return registry.check(kind, name)
        except UserError as error:
            raise ValueError(str(error)) from error

    return AfterValidator(known)


def plain_names(text: str) -> str:
    """Take paths, separated by commas. No file system has longer names, and most functions fail on them."""
    if any(len(os.fsencode(name)) > _LONGEST_NAME for name in re.split("[/,]", text)):
        raise ValueError(f"a name in it is longer than {_LONGEST_NAME} bytes, which no file's can be")
    return text


_LONGEST_NAME = 255
_MOST = 2**31 - 1
"""No count here means anything above, and not every library takes more."""

NamesText = Annotated[str, AfterValidator(plain_names)]
"""One path or Hub name, or several, separated by commas."""
PathText = Annotated[NamesText, AfterValidator(expanduser)]
"""A path or Hub name; `~` is the home folder."""
NonEmptyText = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings; unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

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
        """Refuse counts that overflow somewhere, and text that can be neither written nor a name."""
        counts = int in _leaves(cls.model_fields[str(info.field_name)].annotation)
        for item in [*_items(value), *(value if isinstance(value, dict) else ())]:
            if counts and abs(item or 0) > _MOST:
                raise ValueError(f"should be at most {_MOST}")
            if isinstance(item, str) and "\0" in item:
                raise ValueError("holds a NUL byte")
            if isinstance(item, str):
                os.fsencode(item)  # raises a ValueError for half of a character
        return value


def _leaves(annotation: Any) -> list[Any]:
    """Return the types that a setting's type is made of."""
    parts = get_args(annotation)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [annotation]


def _items(value: Any) -> list[Any]:
    """Return the values in `value`, itself if it is no list or mapping."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def validate(kind: type[Section], values: dict[str, Any], source: str, *, together: str | None = None) -> Any:
    """Return `values` as settings of `kind`. Errors: `UserError`, one line naming key, value and what is allowed.

    Args:
        kind: The settings.
        values: By section.
        source: Where a value comes from, for errors.
        together: Where all of them come from, for errors of settings that do not go together; by default `source`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = together if together and not _is_of_one_setting(first) else source
        raise UserError(f"{place}: {_explain(kind, first)}") from error


def validate_each(kind: type[Section], values: dict[str, Any], source: str) -> None:
    """Check each of `values` by itself, not what they must be to each other. Errors: `UserError`, as `validate`."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        for first in filter(_is_of_one_setting, error.errors()):
            raise UserError(f"{source}: {_explain(kind, first)}") from error


def _is_of_one_setting(error: Any) -> bool:
    return len(error["loc"]) > 1


def setting_names(kind: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return every leaf setting of `kind` by its dotted name, with pydantic's `FieldInfo`."""
    names: dict[str, Any] = {}
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
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type":
        reason += " (in a recipe, text that looks like something else needs quotes)"
    if not key and error["type"] != "value_error":
        return f"should hold settings, section by section, not {error['input']!r:.60}"
    return f"{key}{value}: {reason}" if _is_of_one_setting(error) or error["type"] != "value_error" else reason
