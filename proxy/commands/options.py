"""What the commands share: the options that say where things are, their reading, and how a command ends with a word."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ...config import settings
from ...config.settings import Settings, SettingsError

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.", show_default=False)]
DataDir = Annotated[Path | None, typer.Option(help="Where ledger and originals are kept.", show_default=False)]


def load_settings(
    config: Path | None, *, defaults: Mapping[str, object] | None = None, **overrides: object
) -> Settings:
    """Return the settings that hold; what is wrong with them ends the command with status 2."""
    try:
        return settings.load_settings(config, defaults=defaults, **overrides)
    except SettingsError as error:
        exit_with_error(str(error), 2)


def exit_with_error(message: str, code: int) -> NoReturn:
    """End the command with this status, saying why on standard error."""
    typer.echo(f"clara-proxy: {message}", err=True)
    raise typer.Exit(code)
