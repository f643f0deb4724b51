"""The command line of the proxy's keys: `clara-proxy keys create`, `list` and `revoke`.

A key is printed once, when it is made, on standard output and alone, so that it can be piped to where it is kept.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...config.settings import Settings
from . import options
from .options import Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ..stores.api_keys import ApiKey, KeyStore
    from ..stores.key_usage import KeyUsage

SECONDS_PER_DAY = 86_400  # seconds
app = typer.Typer(help="The proxy's own keys: who may use it, and how much.", no_args_is_help=True)
TokensPerDay = Annotated[
    int | None, typer.Option(min=1, help="Tokens a day (UTC), sent and answered.", show_default=False)
]
DollarsPerDay = Annotated[float | None, typer.Option(min=0.01, help="US dollars a day (UTC).", show_default=False)]
RequestsPerMinute = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute.", show_default=False)
]
ValidDays = Annotated[float | None, typer.Option(min=0.001, max=36_500, help="Days that it holds.", show_default=False)]
Result = TypeVar("Result")


@app.command()
def create(  # noqa: PLR0913, PLR0917 - an option is an argument
    name: Annotated[str, typer.Argument(help="What reports call its requests.")],
    project: Annotated[str, typer.Option(help="The project of its requests, unless they name one.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Good for figures, dashboard and unloading too.")] = False,
    days: ValidDays = None,
    tokens_per_day: TokensPerDay = None,
    dollars_per_day: DollarsPerDay = None,
    requests_per_minute: RequestsPerMinute = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a key and print it, this once. From then on the proxy lets nobody in without one."""
    from ..stores.api_keys import create_key  # noqa: PLC0415

    now = time.time()
    try:
        text, key = create_key(name, project=project, admin=admin, created=now)
    except ValueError as error:
        exit_with_error(str(error), 2)
    key = key._replace(
        expires=None if days is None else now + days * SECONDS_PER_DAY,
        tokens_per_day=tokens_per_day,
        dollars_per_day=dollars_per_day,
        requests_per_minute=requests_per_minute,
    )
    _run_with_keys(options.load_settings(config, data_dir=data_dir), lambda kept: kept.add(key))
    typer.echo(text)
    typer.echo(
        f"the key {name} holds {_format_expiry(key.expires)}; it is not kept, and will not be shown again", err=True
    )


@app.command("list")
def list_keys(data_dir: DataDir = None, config: Config = None) -> None:
    """List the keys: who, for what, until when, and what each has used today (UTC)."""
    chosen = options.load_settings(config, data_dir=data_dir)
    found = _run_with_keys(chosen, lambda kept: kept.list_keys())
    if not found:
        typer.echo("there are no keys: whoever is on this machine can use the proxy", err=True)
        return
    used = asyncio.run(_read_usage_today(chosen))
    now = time.time()
    for key in found:
        typer.echo("  ".join(_format_key(key, used.get(key.name), now)))


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Its name, or its id as `list` shows it.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Let a key in no more. Proxies that run know it within two seconds."""

    async def done(kept: "KeyStore") -> tuple[int, bool]:
        gone = await kept.revoke(which, time.time())
        return gone, any(key.revoked is None for key in await kept.list_keys())

    gone, others = _run_with_keys(options.load_settings(config, data_dir=data_dir), done)
    if not gone:
        exit_with_error(f"no key that holds has the name or the id {which}", 1)
    typer.echo(f"{which} is revoked")
    if not others:
        typer.echo("that was the last: whoever is on this machine can use the proxy now", err=True)


def _format_key(key: "ApiKey", used: "KeyUsage | None", now: float) -> Iterator[str]:
    yield f"{key.id}  {key.name:20}"
    if key.revoked is not None:
        yield f"revoked {_format_date(key.revoked)}"
        return
    if key.expires is not None and key.expires <= now:
        yield f"expired {_format_date(key.expires)}"
        return
    yield _format_expiry(key.expires)
    if key.admin:
        yield "admin"
    if key.project:
        yield f"project {key.project}"
    if key.requests_per_minute is not None:
        yield f"{key.requests_per_minute:,} requests a minute"
    tokens, dollars = (used.tokens, used.dollars) if used is not None else (0, 0.0)
    yield f"today {tokens:,}{'' if key.tokens_per_day is None else f' of {key.tokens_per_day:,}'} tokens"
    yield f"${dollars:,.4f}{'' if key.dollars_per_day is None else f' of ${key.dollars_per_day:,.2f}'}"


def _format_expiry(expires: float | None) -> str:
    return "until it is revoked" if expires is None else f"until {_format_date(expires)}"


def _format_date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "minutes").removesuffix("+00:00")


async def _read_usage_today(chosen: Settings) -> "dict[str, KeyUsage]":
    from ..stores import key_usage  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    async with Ledger(_get_ledger_url(chosen)) as ledger:
        return await key_usage.read_stored_usage(ledger, int(time.time() // SECONDS_PER_DAY))


def _run_with_keys(chosen: Settings, work: "Callable[[KeyStore], Awaitable[Result]]") -> Result:
    from ..stores.api_keys import KeyStoreError, open_key_store  # noqa: PLC0415

    async def done() -> Result:
        async with open_key_store(_get_ledger_url(chosen)) as kept:
            return await work(kept)

    try:
        return asyncio.run(done())
    except (ValueError, KeyStoreError) as error:
        exit_with_error(str(error), 2)


def _get_ledger_url(chosen: Settings) -> str:
    from ..stores.ledger import ledger_url  # noqa: PLC0415

    return ledger_url(chosen.data_dir.expanduser(), chosen.ledger_url)
