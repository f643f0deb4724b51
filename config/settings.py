"""The settings of the proxy, frozen once they are read.

Order: defaults < the YAML file < `CLARA_*` in the environment < command line. An invalid value raises `SettingsError`
with the setting's name and the problem. A test compares the table in docs/settings.md with this module.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from . import config_file
from .model_settings import ModelSettings
from .request_settings import RequestSettings
from .server_settings import ServerSettings
from .settings_errors import SettingsError, describe_validation_error, suggest_name
from .store_settings import StoreSettings

ENV_PREFIX = "CLARA_"


class Settings(StoreSettings, ModelSettings, RequestSettings, ServerSettings):
    """All settings. Build them with `load_settings`, or in a test with keyword arguments.

    pydantic collects the fields from the last base to the first: this is the order of docs/settings.md.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    @property
    def max_body_bytes(self) -> int:
        """Return the size limit of a request body in bytes."""
        return self.max_body_mb * 2**20


def load_settings(file: Path | None = None, *, defaults: Mapping[str, Any] | None = None, **overrides: Any) -> Settings:
    """Read the settings from `defaults`, the configuration file, the environment and `overrides`, in rising order.

    Overrides of None are ignored. `config_file.find_config_file` chooses the configuration file.

    Raises:
        SettingsError: the file cannot be read, or it has an unknown setting or an invalid value.
    """
    path = config_file.find_config_file(file)
    values = {**(defaults or {}), **(config_file.read_config_file(path) if path else {})}
    variables = {name.upper() for name, value in os.environ.items() if value}  # an empty variable counts as unset
    values = {name: value for name, value in values.items() if ENV_PREFIX + name.upper() not in variables}
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        details = error.errors()
        raise SettingsError(
            "; ".join(describe_validation_error(detail, ENV_PREFIX, Settings.model_fields) for detail in details)
        ) from None
    except UnreadableError as error:  # a variable that should hold JSON; the message names the field
        raise SettingsError(str(error)) from None


def find_unknown_variables() -> dict[str, str]:
    """Return the `CLARA_*` variables in the environment that no setting reads, each with a suggestion or ""."""
    variables = [ENV_PREFIX + name.upper() for name in Settings.model_fields] + [config_file.FILE_VARIABLE]
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in variables)
    return {name: suggest_name(name, variables) for name in unknown}


def build_child_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with more `variables`, for a child process."""
    return {**os.environ, **variables}
