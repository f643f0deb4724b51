"""Checks that everything the proxy needs is there; every finding that is not well says what to do.

The invariant: it asks what the proxy would ask, with a key that is meant for it, and sends nobody's text.
"""

import asyncio
import errno
import json
import shutil
import tempfile
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ...compression.clara.locate import NANO_NAME
from ...config import client_environment
from ...config import settings as configuration
from ...config.settings import Settings
from ..access.origins import is_loopback
from ..http.upstream import Upstream
from ..protocols.api_errors import ApiError
from ..runtime import services
from ..stores.api_keys import KeyStoreError
from ..stores.errors import describe
from ..stores.ledger import ledger_url, select_dialect
from ..stores.originals import Originals, OriginalsError
from . import checkpoints, serve

PROBE_BYTES = 2**16  # bytes that are written to see whether there is room
_VERSION_HEADER: tuple[str, str] = ("anthropic-version", "2023-06-01")


class Check(NamedTuple):
    """One thing looked at: what was found, and what to do about it; all is well when that is nothing."""

    name: str
    result: str
    remedy: str = ""


class ModelsReply(NamedTuple):
    """What an upstream said when it was asked for its models: what is wrong, if it could not be asked."""

    url: str
    status: int = 0
    content_type: str = ""
    redirect_url: str = ""
    error: str = ""


async def run_checks(settings: Settings) -> list[Check]:
    """Look at everything; never raises."""
    local = [
        _check_environment(),
        _check_data_dir(settings),
        *await _check_stores(settings),
        await _check_access(settings),
        _check_port(settings),
    ]
    return [*local, *await _check_upstreams(settings), *await asyncio.to_thread(_check_engine, settings)]


def _check_environment() -> Check:
    unknown = configuration.find_unknown_variables()
    if unknown:
        return Check("environment", f"no setting reads {', '.join(unknown)}", "see the table in docs/settings.md")
    return Check("environment", "every CLARA_ variable is a setting")


def _check_data_dir(settings: Settings) -> Check:
    folder = settings.data_dir.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = "make room on its disk" if error.errno == errno.ENOSPC else "name another one in CLARA_DATA_DIR"
        return Check("data directory", f"{folder}: {describe(error)}", remedy)
    return Check("data directory", f"{folder} is writable, with {free / 2**30:,.1f} GiB free")


async def _check_stores(settings: Settings) -> list[Check]:
    """Open the ledger and the originals where they are somewhere else, or are there already; none is made."""
    folder = settings.data_dir.expanduser()
    found: list[Check] = []
    if settings.ledger_url or (folder / "ledger.sqlite3").exists():
        found.append(await _check_ledger(ledger_url(folder, settings.ledger_url), own=not settings.ledger_url))
    if settings.originals_url or settings.originals_key or (folder / "originals.sqlite3").exists():
        found.append(await _check_originals(settings, folder / "originals.sqlite3"))
    return found


async def _check_ledger(url: str, *, own: bool) -> Check:
    remedy = "see CLARA_DATA_DIR; `clara-proxy ledger verify` says more" if own else "check CLARA_LEDGER_URL"
    try:
        engine = await select_dialect(url).open()
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        finally:
            await engine.dispose()
    except Exception as error:  # noqa: BLE001 - drivers have a hundred kinds; an address is not repeated
        reason = str(error) if isinstance(error.__cause__, ImportError) else describe(error)
        return Check("ledger", f"cannot be opened: {reason}", remedy)
    return Check("ledger", "can be opened")


async def _check_originals(settings: Settings, file: Path) -> Check:
    remedy = "check CLARA_ORIGINALS_URL and CLARA_ORIGINALS_KEY" if settings.originals_url else "see CLARA_DATA_DIR"
    try:
        held = Originals(settings.originals_url or file, settings.originals_ttl, encryption_keys=settings.originals_key)
        if settings.originals_url is not None or await asyncio.to_thread(file.exists):
            await held.start()
            await held.stop()
    except OriginalsError as error:
        return Check("originals", f"cannot be opened: {describe(error)}", remedy)
    return Check("originals", "can be opened")


async def _check_access(settings: Settings) -> Check:
    try:
        if await serve.is_unprotected(settings):
            remedy = "`clara-proxy keys create NAME`, CLARA_HOST=127.0.0.1, or CLARA_OPEN=true to let everybody in"
            return Check(
                "access", f"others can reach {settings.host}, and there are no keys: it will not start", remedy
            )
    except (KeyStoreError, ValueError) as error:
        return Check("access", str(error), "the ledger's database holds the keys: see there")
    whose = "only this machine" if is_loopback(settings.host) else "everybody" if settings.open else "who has a key"
    return Check("access", f"{settings.host} is for {whose}")


def _check_port(settings: Settings) -> Check:
    where = f"{settings.host}:{settings.port}"
    try:
        serve.bind_socket(settings.host, settings.port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_proxy_running(settings):
            return Check("port", f"{where}: the proxy is running there")
        if error.errno == errno.EADDRINUSE:
            return Check("port", f"{where}: {describe(error)}", "stop what listens there, or set CLARA_PORT")
        here = error.errno == errno.EACCES
        remedy = "set CLARA_PORT to one above 1023" if here else "set CLARA_HOST to an address of this machine"
        return Check("port", f"{where}: {describe(error)}", remedy)
    return Check("port", f"{where} is free")


def _is_proxy_running(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    return [_fetch_json(f"{base}{path}") for path in ("/livez", "/readyz")] == [{"status": "ok"}, {"status": "ready"}]


def _fetch_json(url: str) -> object:
    """Return what is said at an address of ours, as a proxy of the environment's never could."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            said: object = json.loads(answer.read(1000))
            return said
    except (OSError, ValueError):
        return None


async def _check_upstreams(settings: Settings) -> list[Check]:
    """Ask for models: Anthropic only where somebody said something about it."""
    base, key = settings.upstream_base_url, settings.upstream_api_key
    shown = key or client_environment.read_openai_key(base)
    asked = await _request_models(settings, base, [("authorization", f"Bearer {shown}")] if shown else [])
    name = "CLARA_UPSTREAM_API_KEY" if key else "OPENAI_API_KEY" if shown else ""
    found = _check_models_reply("upstream", "CLARA_UPSTREAM_BASE_URL", asked, name)
    if {"anthropic_base_url", "anthropic_api_key"} & settings.model_fields_set:
        key = settings.anthropic_api_key
        headers = [_VERSION_HEADER, *([("x-api-key", key)] if key else [])]
        asked = await _request_models(settings, settings.anthropic_base_url, headers)
        name = "CLARA_ANTHROPIC_API_KEY" if key else ""
        found += _check_models_reply("Anthropic", "CLARA_ANTHROPIC_BASE_URL", asked, name)
    return found


async def _request_models(settings: Settings, base: str, headers: list[tuple[str, str]]) -> ModelsReply:
    url = f"{base.rstrip('/')}/models"
    shown = client_environment.redact_url(url)
    upstream = Upstream(
        connect_timeout=settings.connect_timeout, read_timeout=30, decompress=True, proxy=settings.upstream_proxy
    )
    try:
        async with upstream.send("GET", url, headers, None) as reply:
            goes_to = next(
                (value.decode("latin-1") for name, value in reply.headers if name.lower() == b"location"), ""
            )
            return ModelsReply(shown, reply.status, reply.content_type, client_environment.redact_url(goes_to))
    except ApiError as error:
        return ModelsReply(shown, error=error.message)
    finally:
        await upstream.close()


def _check_models_reply(name: str, setting: str, asked: ModelsReply, key: str) -> list[Check]:
    url, status = asked.url, asked.status
    if asked.error:
        return [Check(name, f"{url}: {asked.error}", f"check {setting} and the network")]
    if 300 <= status < 400:
        remedy = f"redirects are not followed, as a key must not travel on: correct {setting}"
        return [Check(name, f"{url} leads on to {asked.redirect_url or 'elsewhere'}", remedy)]
    if status in (404, 405) or (status < 300 and asked.content_type == "text/html"):
        remedy = f"{setting} usually ends in /v1, with no /chat/completions behind it"
        return [Check(name, f"{url}: {'a web page' if status < 300 else f'status {status}'}", remedy)]
    if status >= 500:
        return [Check(name, f"{url}: status {status}", "ask its operator: this is not about the key")]
    return [Check(name, f"{url} answers"), _check_key(name, status, key)]


def _check_key(upstream: str, status: int, name: str) -> Check:
    label = "key" if upstream == "upstream" else f"{upstream}'s key"
    if not name:
        return Check(label, "none was tried: every client sends its own")
    if status in (401, 403):
        return Check(label, f"{name} is refused with status {status}", f"check {name}")
    if status >= 400:
        return Check(label, f"with {name}, status {status}", "ask the upstream's operator")
    return Check(label, f"{name} is accepted")


def _check_engine(settings: Settings) -> list[Check]:
    """Look at what shortens here; a CLaRa model that was chosen is looked at as `clara-proxy models verify` does."""
    found = [Check("engine", "extract: verbatim pieces, no model needed")]
    model = services.resolve_local_model(settings)
    if model == NANO_NAME:
        found.append(Check("CLaRa", "clara-nano answers /compress and the model clara"))
    elif model is None:
        reason = (
            "as CLARA_MODEL says" if settings.model else "the extra [clara] is not installed, and nothing else needs it"
        )
        found.append(Check("CLaRa", f"none, {reason}"))
    elif find_spec("torch") is None:
        found.append(Check("CLaRa", f"{model} needs torch", "pip install 'clara-proxy[clara]', or unset CLARA_MODEL"))
    else:
        last = checkpoints.verify_checkpoint(model, settings.subfolder, settings.base)[-1]
        remedy = "" if last.is_ok else "`clara-proxy models verify` and `pull` say more; or unset CLARA_MODEL"
        found.append(Check("CLaRa", f"{model} is whole" if last.is_ok else last.result, remedy))
    if complaint := services.describe_unavailable_mode(settings):
        found.append(Check("mode", complaint, "set CLARA_MODE=auto, or choose a model"))
    return found
