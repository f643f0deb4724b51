"""Messages for invalid settings. Pure.

A message holds the name of the setting, its variable, the valid values and, unless it may be secret, the invalid one.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_URL_SETTINGS = frozenset({"originals_url", "ledger_url", "memory_url", "upstream_proxy"})  # may contain a password
_VALUE_ERROR_PREFIX = "Value error, "  # of pydantic, before the message of a validator
_REQUIREMENTS = {
    "missing": "is required",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "model_type": "must be a list of `name: value` lines",
    "dict_type": "must be a list of `name: value` lines",
}


class SettingsError(ValueError):
    """A setting has an invalid value; the message names the setting."""


def describe_validation_error(detail: ErrorDetails, prefix: str, fields: Mapping[str, FieldInfo]) -> str:
    """Return the message for one error of pydantic; `prefix` is that of the variables, `fields` are the settings."""
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{name}: unknown setting{suggest_name(name, fields)}"
    setting = name.partition(".")[0]
    value = detail["input"]
    got = f", got {_format_value(value)}" if _is_safe_to_show(name, value) else ""
    requirement = _describe_requirement(detail, fields.get(setting))
    separator = "" if requirement.startswith(("must ", "needs ", "is ")) else ":"
    return f"{name} ({prefix}{setting.upper()}){separator} {requirement}{got}"


def suggest_name(name: str, names: Iterable[str]) -> str:
    """Return the known name that is nearest to an unknown one as ` (did you mean NAME?)`; empty if none is near."""
    names = list(names)
    plain_name = name.lower().removeprefix("clara_")  # a variable's name in the file, where settings have no prefix
    matches = [plain_name] if plain_name in names else get_close_matches(name, names, n=1, cutoff=0.75)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _describe_requirement(detail: ErrorDetails, field: FieldInfo | None) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        expected = str(detail.get("ctx", {}).get("expected", ""))
        return f"must be {'one of ' if ',' in expected else ''}{expected}"
    if kind in {"greater_than", "greater_than_equal", "less_than_equal", "finite_number"} and field is not None:
        return f"must be {_format_range(field)}"
    message = detail["msg"]
    return _REQUIREMENTS.get(kind) or message.removeprefix(_VALUE_ERROR_PREFIX)


def _format_range(field: FieldInfo) -> str:
    """Return the limits of a number: `from 1 to 1000`, `at least 1`, `above 0`."""
    limits: dict[str, Any] = {
        name: value
        for item in field.metadata
        for name in ("ge", "gt", "le")
        if (value := getattr(item, name, None)) is not None
    }
    if "ge" in limits and "le" in limits:
        return f"from {limits['ge']:g} to {limits['le']:g}"
    parts = [f"{word} {limits[name]:g}" for name, word in _LIMIT_WORDS.items() if name in limits]
    return " and ".join(parts) or "a number"


_LIMIT_WORDS = {"ge": "at least", "gt": "above", "le": "at most"}


def _format_value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _is_safe_to_show(name: str, value: object) -> bool:
    """Return True if a message may show a value: it is not a key and cannot contain one."""
    return "key" not in name and name not in _URL_SETTINGS and isinstance(value, str | int | float | None)
