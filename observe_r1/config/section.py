"""What every section of the settings is, and errors of one line."""

from os.path import expanduser
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


PathText = Annotated[str, AfterValidator(expanduser)]
"""A path or Hub name; `~` is the home folder."""
NonEmptyText = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings; unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def validate(kind: type[Section], values: dict[str, Any], source: str) -> Any:
    """Return `values` as settings of `kind`. Errors: `UserError`, one line naming key, value and what is allowed."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(kind, error.errors()[0])}") from error


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
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = list(setting_names(kind)) + list(kind.model_fields)
        return f"unknown setting {key!r}{registry.nearest(key, known)}"
    if error["type"] == "missing":
        return f"setting {key!r} is missing"
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{key}{value}: {reason}" if key else reason
