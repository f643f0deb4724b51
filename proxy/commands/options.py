"""Options and helpers that the commands share: settings, stores, errors, findings and timestamps."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ...config import settings as configuration
from ...config.settings import Settings
from ...config.settings_errors import SettingsError

if TYPE_CHECKING:
    from ..stores.originals import Originals

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.", show_default=False)]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the proxy's data. Default: ~/.clara-proxy.", show_default=False),
]
Since = Annotated[str, typer.Option(help="Start of the period: 30m, 24h, 7d or 2w ago, or a date such as 2026-01-31.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ratio = Annotated[
    float | None,
    typer.Option(
        help="Compression ratio from 1 to 1000; 4 keeps a quarter of the tokens. Default: depends on the content.",
        show_default=False,
    ),
]


def load_settings(
    config: Path | None, *, defaults: Mapping[str, object] | None = None, **overrides: object
) -> Settings:
    """Load the settings; an invalid one ends the command with status 2."""
    try:
        return configuration.load_settings(config, defaults=defaults, **overrides)
    except SettingsError as error:
        exit_with_error(str(error), 2)


def locate_ledger(settings: Settings) -> str:
    """Return the URL of the ledger; a missing ledger file ends the command with status 2."""
    from ..reports import ledger_report  # noqa: PLC0415 - slow, and `--help` does not need it

    try:
        return ledger_report.locate_ledger(settings.data_dir.expanduser(), settings.ledger_url)
    except ValueError as error:
        exit_with_error(str(error), 2)


@asynccontextmanager
async def open_originals(settings: Settings) -> "AsyncGenerator[Originals]":
    """Open the store of originals.

    Raises:
        FileNotFoundError: the data directory has no originals.
        OriginalsError: the store cannot be opened.
    """
    from ..stores.originals import Originals  # noqa: PLC0415 - slow, and `--help` does not need it

    location = settings.originals_url or settings.data_dir.expanduser() / "originals.sqlite3"
    if isinstance(location, Path) and not location.exists():
        raise FileNotFoundError(
            f"there are no originals in {location.parent}; check the data directory (CLARA_DATA_DIR)"
        )
    originals = Originals(location, settings.originals_ttl, encryption_keys=settings.originals_key)
    await originals.start()
    try:
        yield originals
    finally:
        await originals.stop()


def exit_with_error(message: str, code: int) -> NoReturn:
    """Print an error message to standard error and end the command with this status."""
    typer.echo(f"clara-proxy: {message}", err=True)
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2))


def print_finding(name: str, result: str, *, is_ok: bool, remedy: str = "") -> None:
    """Print the result of a check, and a remedy on a line of its own."""
    typer.echo(f"{'ok  ' if is_ok else 'FAIL'}  {name}: {result}")
    if remedy:
        typer.echo(f"      -> {remedy}")


def format_timestamp(seconds: float, precision: str = "minutes") -> str:
    """Format Unix seconds as a UTC time: `2026-01-31 12:00`."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(" ", precision)


def replace_unprintable(text: str) -> str:
    """Return a text without control characters, which could change the terminal; line ends and tabs stay."""
    return "".join(character if character.isprintable() or character in "\t\n" else "?" for character in text)
