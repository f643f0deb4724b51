"""Filters of a search by the attributes of files, in the shape of OpenAI's vector store search."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

MAX_DEPTH = 8
Scalar = str | float | bool
Attributes = Mapping[str, Any]
Condition = Callable[[Attributes], bool]


class Comparison(BaseModel):
    """A comparison of one attribute with a value; a file without the attribute only fulfils `ne` and `nin`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str
    value: Scalar | list[Scalar]


class Compound(BaseModel):
    """Filters combined by `and` or by `or`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    filters: list["Filter"]


Filter = Annotated[Union[Comparison, Compound], Field(discriminator="type")]  # noqa: UP007 - a forward reference
Compound.model_rebuild()


def build_condition(search_filter: Comparison | Compound, depth: int = 0) -> Condition:
    """Return the condition of a filter. Raises ValueError if it is nested too deeply or compares lists wrongly."""
    if depth > MAX_DEPTH:
        raise ValueError(f"filters may be nested at most {MAX_DEPTH} levels deep")
    if isinstance(search_filter, Compound):
        parts = [build_condition(part, depth + 1) for part in search_filter.filters]
        combine = all if search_filter.type == "and" else any
        return lambda attributes: combine(part(attributes) for part in parts)
    is_list = isinstance(search_filter.value, list)
    if is_list != (search_filter.type in {"in", "nin"}):
        raise ValueError(f"the filter {search_filter.type} needs {'one value' if is_list else 'a list of values'}")
    return lambda attributes: _compare(search_filter, attributes)


def _compare(comparison: Comparison, attributes: Attributes) -> bool:
    value, expected = attributes.get(comparison.key), comparison.value
    match comparison.type:
        case "eq":
            return _is_equal(value, expected)
        case "ne":
            return not _is_equal(value, expected)
        case "in":
            return isinstance(expected, list) and any(_is_equal(value, item) for item in expected)
        case "nin":
            return isinstance(expected, list) and not any(_is_equal(value, item) for item in expected)
        case _:
            return _is_ordered(comparison.type, value, expected)


def _is_equal(value: object, expected: object) -> bool:
    return value == expected and isinstance(value, bool) == isinstance(expected, bool)


def _is_ordered(operator: str, value: Any, expected: Any) -> bool:
    is_text = isinstance(value, str) and isinstance(expected, str)
    is_number = all(isinstance(item, int | float) and not isinstance(item, bool) for item in (value, expected))
    if not is_text and not is_number:
        return False
    if operator == "gt":
        return bool(value > expected)
    if operator == "gte":
        return bool(value >= expected)
    return bool(value < expected) if operator == "lt" else bool(value <= expected)
