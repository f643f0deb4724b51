"""The commands `clara-proxy keys create`, `list` and `revoke`: API keys of the proxy.

`create` prints the key once and alone on standard output, so that it can be piped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...config.settings import Settings
from . import options
from .options import AsJson, Config, DataDir, exit_with_error, format_timestamp

if TYPE_CHECKING:
    from ..stores.api_keys import ApiKey, KeyStore
    from ..stores.key_usage import KeyUsage

SECONDS_PER_DAY = 86_400
NO_KEYS_NOTE = "there are no valid keys: every program on this machine can use the proxy"
app = typer.Typer(help="API keys of the proxy: permissions, budgets and rate limits.", no_args_is_help=True)
TokensPerDay = Annotated[
    int | None, typer.Option(min=1, help="Limit of input and output tokens per day (UTC).", show_default=False)
]
DollarsPerDay = Annotated[
    float | None, typer.Option(min=0.01, help="Limit in US dollars per day (UTC).", show_default=False)
]
RequestsPerMinute = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Limit of requests per minute.", show_default=False)
]
ValidDays = Annotated[
    float | None,
    typer.Option(min=0.001, max=36_500, help="Days until the key expires. Default: never.", show_default=False),
]
Result = TypeVar("Result")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key in reports.")],
    project: Annotated[str, typer.Option(help="Project of requests that name none.")] = "",
    admin: Annotated[
        bool, typer.Option("--admin", help="Also allow reports, metrics, the dashboard and unloading the model.")
    ] = False,
    days: ValidDays = None,
    tokens_per_day: TokensPerDay = None,
    dollars_per_day: DollarsPerDay = None,
    requests_per_minute: RequestsPerMinute = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Create an API key and print it (shown only once). Once any key exists, every request needs one."""
    from ..stores.api_keys import create_key  # noqa: PLC0415

    now = time.time()
    try:
        secret, key = create_key(name, project=project, admin=admin, created=now)
    except ValueError as error:
        exit_with_error(str(error), 2)
    key = key._replace(
        expires=None if days is None else now + days * SECONDS_PER_DAY,
        tokens_per_day=tokens_per_day,
        dollars_per_day=dollars_per_day,
        requests_per_minute=requests_per_minute,
    )
    _run_with_keys(options.load_settings(config, data_dir=data_dir), lambda store: store.add(key))
    typer.echo(secret)
    typer.echo(
        f"the key {name} is valid {_format_expiry(key.expires)}; store it now, it will not be shown again", err=True
    )


@app.command("list")
def list_keys(data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the keys with their permissions, expiry, limits and usage today (UTC)."""
    settings = options.load_settings(config, data_dir=data_dir)
    keys = _run_with_keys(settings, lambda store: store.list_keys()) if _has_ledger(settings) else []
    usage = asyncio.run(_read_usage_today(settings)) if keys else {}
    if as_json:
        options.print_json([_serialize_key(key, usage.get(key.name)) for key in keys])
        return
    if not keys:
        typer.echo(NO_KEYS_NOTE, err=True)
    now = time.time()
    for key in keys:
        typer.echo("  ".join(_format_key(key, usage.get(key.name), now)))


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Name of the key, or its id from `keys list`.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Revoke a key. Running proxies reject it within two seconds."""

    async def revoke_key(store: "KeyStore") -> tuple[int, bool]:
        count = await store.revoke(which, time.time())
        return count, any(key.revoked is None for key in await store.list_keys())

    settings = options.load_settings(config, data_dir=data_dir)
    count, has_keys = _run_with_keys(settings, revoke_key) if _has_ledger(settings) else (0, False)
    if not count:
        exit_with_error(f"no valid key has the name or id {which}; see `clara-proxy keys list`", 1)
    typer.echo(f"{which} is revoked")
    if not has_keys:
        typer.echo(NO_KEYS_NOTE, err=True)


def _serialize_key(key: "ApiKey", usage: "KeyUsage | None") -> dict[str, object]:
    """Return a key without its hash, and its usage today (UTC)."""
    fields: dict[str, object] = {name: value for name, value in key._asdict().items() if name != "hash"}
    tokens, dollars = (usage.tokens, usage.dollars) if usage is not None else (0, 0.0)
    return fields | {"tokens_today": tokens, "dollars_today": dollars}


def _format_key(key: "ApiKey", usage: "KeyUsage | None", now: float) -> Iterator[str]:
    yield f"{key.id}  {key.name:20}"
    if key.revoked is not None:
        yield f"revoked {format_timestamp(key.revoked)}"
        return
    if key.expires is not None and key.expires <= now:
        yield f"expired {format_timestamp(key.expires)}"
        return
    yield _format_expiry(key.expires)
    if key.admin:
        yield "admin"
    if key.project:
        yield f"project {key.project}"
    if key.requests_per_minute is not None:
        yield f"{key.requests_per_minute:,} requests a minute"
    tokens, dollars = (usage.tokens, usage.dollars) if usage is not None else (0, 0.0)
    yield f"today {tokens:,}{'' if key.tokens_per_day is None else f' of {key.tokens_per_day:,}'} tokens"
    yield f"${dollars:,.4f}{'' if key.dollars_per_day is None else f' of ${key.dollars_per_day:,.2f}'}"


def _format_expiry(expires: float | None) -> str:
    return "until revoked" if expires is None else f"until {format_timestamp(expires)}"


async def _read_usage_today(settings: Settings) -> "dict[str, KeyUsage]":
    from ..stores import key_usage  # noqa: PLC0415
    from ..stores.ledger import Ledger  # noqa: PLC0415

    async with Ledger(_build_ledger_url(settings)) as ledger:
        return await key_usage.read_stored_usage(ledger, int(time.time() // SECONDS_PER_DAY))


def _run_with_keys(settings: Settings, work: "Callable[[KeyStore], Awaitable[Result]]") -> Result:
    from ..stores.api_keys import KeyStoreError, open_key_store  # noqa: PLC0415

    async def run() -> Result:
        async with open_key_store(_build_ledger_url(settings)) as store:
            return await work(store)

    try:
        return asyncio.run(run())
    except (ValueError, KeyStoreError) as error:
        exit_with_error(str(error), 2)


def _has_ledger(settings: Settings) -> bool:
    """Return False if the ledger is a file that does not exist; opening it would create it."""
    return settings.ledger_url is not None or (settings.data_dir.expanduser() / "ledger.sqlite3").exists()


def _build_ledger_url(settings: Settings) -> str:
    from ..stores.ledger import ledger_url  # noqa: PLC0415

    return ledger_url(settings.data_dir.expanduser(), settings.ledger_url)
