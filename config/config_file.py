"""Finds and reads the YAML file with settings."""

import os
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.error import MarkedYAMLError

from .settings_errors import SettingsError

DEFAULT_CONFIG_FILE = Path("~/.clara-proxy/config.yaml")
FILE_VARIABLE = "CLARA_CONFIG"


def find_config_file(file: Path | None = None) -> Path | None:
    """Return `file`, or else the file of `FILE_VARIABLE`, or else `DEFAULT_CONFIG_FILE` if it exists, or else None."""
    if file is not None:
        return file
    if name := os.environ.get(FILE_VARIABLE):
        return Path(name)
    default = DEFAULT_CONFIG_FILE.expanduser()
    return default if default.is_file() else None


def read_config_file(file: Path) -> dict[str, Any]:
    """Return the settings in a YAML file.

    Raises:
        SettingsError: the file cannot be read, or it does not hold `setting: value` lines.
    """
    try:
        values = yaml.safe_load(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"cannot read the configuration file {file}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"configuration file {file}: {_describe_yaml_error(error)}") from None
    if not isinstance(values or {}, dict):
        raise SettingsError(f"configuration file {file}: expected `setting: value` lines")
    return {str(name): value for name, value in cast("dict[Any, Any]", values or {}).items()}


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    """Return the problem and the line number; the line's text may hold a key and is omitted."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return "not valid YAML"
    return f"not valid YAML in line {error.problem_mark.line + 1}: {error.problem}"
