"""Where each setting comes from, for `clara-proxy config`: its value, its source, and a commented file of all of them.

Secrets are masked: their values never leave this module.
"""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from .config_file import find_config_file, read_config_file
from .settings import ENV_PREFIX, Settings, load_settings

DEFAULT = "default"  # the source of a setting that is not set
_MASK = "(set)"
_COMMENT_WIDTH = 96  # characters of a comment line of the file


class SettingSource(NamedTuple):
    """A setting, its effective value as JSON can hold it, and its source: `default`, a file or a variable."""

    name: str
    value: JsonValue
    source: str


def read_setting_sources(file: Path | None = None) -> Iterator[SettingSource]:
    """Yield every setting in the order of `Settings`; the values of secrets are replaced by `(set)`.

    Raises:
        SettingsError: as `load_settings`.
    """
    values = load_settings(file).model_dump(mode="json")
    config_file = find_config_file(file)
    in_file = frozenset(() if config_file is None else read_config_file(config_file))
    set_variables = {name.upper(): name for name, value in os.environ.items() if value}
    for name, field in Settings.model_fields.items():
        variable = set_variables.get(ENV_PREFIX + name.upper())
        source = variable or (str(config_file) if name in in_file else DEFAULT)
        yield SettingSource(name, _mask(values[name], is_secret=field.repr is False), source)


def render_config_file() -> str:
    """Return a YAML file in which every setting stands with its meaning and default, commented out."""
    lines = [
        "# Settings of clara-proxy. Remove the `#` in front of a setting to change it.",
        f"# A variable {ENV_PREFIX}NAME in the environment and an option of the command line take precedence.",
    ]
    for name, field in Settings.model_fields.items():
        lines += [
            "",
            *textwrap.wrap(field.description or "", _COMMENT_WIDTH, initial_indent="# ", subsequent_indent="# "),
        ]
        lines.append(f"# {name}: {_format_default(field)}".rstrip())
    return "\n".join(lines) + "\n"


def _format_default(field: FieldInfo) -> str:
    default = field.get_default()
    if default in (None, "", ()):
        return ""
    return yaml.safe_dump(default if isinstance(default, str | int | float | bool) else str(default)).splitlines()[0]


def _mask(value: JsonValue, *, is_secret: bool) -> JsonValue:
    """Return a value of JSON in which secrets are replaced: the value itself, or those of nested `api_key` fields."""
    if is_secret:
        return _MASK if value else value
    if isinstance(value, list):
        return [_mask(item, is_secret=False) for item in value]
    if isinstance(value, dict):
        return {name: _mask(item, is_secret=name == "api_key") for name, item in value.items()}
    return value
