"""The commands `clara-proxy config init`, `show` and `path`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue

from ...config import config_file, setting_sources
from ...config.settings_errors import SettingsError
from . import options
from .options import AsJson, Config, exit_with_error

app = typer.Typer(help="The configuration file: create it, show every setting and its source.", no_args_is_help=True)


@app.command()
def init(
    file: Annotated[
        Path | None, typer.Argument(help="File to write. Default: ~/.clara-proxy/config.yaml.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented configuration file with every setting; it changes nothing until you edit it."""
    path = (file or config_file.DEFAULT_CONFIG_FILE).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("w" if force else "x", encoding="utf-8") as out:
            path.chmod(0o600)  # the file may hold API keys
            out.write(setting_sources.render_config_file())
    except FileExistsError:
        exit_with_error(f"{path} exists; edit it, or replace it with --force", 2)
    except OSError as error:
        exit_with_error(f"cannot write {path}: {error.strerror}", 2)
    typer.echo(path)


@app.command()
def show(
    config: Config = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only settings that differ from the default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every setting with its value and its source. API keys and database URLs are masked."""
    try:
        entries = [
            entry
            for entry in setting_sources.read_setting_sources(config)
            if not changed or entry.source != setting_sources.DEFAULT
        ]
    except SettingsError as error:
        exit_with_error(str(error), 2)
    if as_json:
        options.print_json([entry._asdict() for entry in entries])
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        typer.echo(f"{entry.name:{width}}  {_format_value(entry.value)}  ({entry.source})")


@app.command()
def path(config: Config = None) -> None:
    """Print the configuration file in use; exits with status 1 without one."""
    file = config_file.find_config_file(config)
    if file is None:
        exit_with_error("no configuration file; create one with `clara-proxy config init`", 1)
    typer.echo(file.expanduser())


def _format_value(value: JsonValue) -> str:
    if value in (None, "", []):
        return "not set"
    if isinstance(value, list):
        return ", ".join(_format_value(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
