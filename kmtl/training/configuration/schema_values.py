"""Kinds of values that several parts of a configuration have."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]

_ENTRY_POINT = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


class Part(BaseModel):
    """A mapping with fixed keys, each of its own type and no other."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def is_entry_point(value: Any) -> bool:
    """Whether it looks like "module:function"."""
    return isinstance(value, str) and _ENTRY_POINT.fullmatch(value) is not None


def ending_in(suffix: str) -> AfterValidator:
    """Requires a path with this ending."""

    def check(value):
        if not value.endswith(suffix):
            raise ValueError(f"must end in {suffix}")
        return value

    return AfterValidator(check)


def _entry_point(value):
    if not is_entry_point(value):
        raise ValueError('must name a function as "module:function"')
    return value


def _specification(value):
    named = isinstance(value, Mapping) and isinstance(value.get("class"), str)
    if not named and not isinstance(value, str):
        raise ValueError("must be a name, or a mapping of `class` and its arguments")
    return value


def _optional(value):
    return None if value is None else _specification(value)


def _number(value):
    """YAML spells not-a-number .nan; "nan" is what people write."""
    return float("nan") if isinstance(value, str) and value.lower() == "nan" else value


EntryPoint = Annotated[str, AfterValidator(_entry_point)]

# Of an object: its name, or {"class": name, argument: value, ...}.
Specification = Annotated[Any, AfterValidator(_specification)]
OptionalSpecification = Annotated[Any, AfterValidator(_optional)]

NumberOrNaN = Annotated[float, BeforeValidator(_number)]
