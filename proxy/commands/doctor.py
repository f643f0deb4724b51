"""Checks the setup of the proxy for `clara-proxy doctor`; every failed check has a remedy.

Invariant: the checks send only requests that the proxy itself would send, each API key only to its own upstream, and no
user text.
"""

import asyncio
import errno
import json
import shlex
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...compression.clara.locate import NANO_NAME
from ...config import client_environment
from ...config import settings as configuration
from ...config.settings import Settings
from ..access.origins import is_loopback
from ..http import headers
from ..http.upstream import Upstream
from ..protocols.api_errors import ApiError
from ..runtime import local_model, local_pruner
from ..stores.api_keys import KeyStoreError
from ..stores.errors import describe
from ..stores.ledger import ledger_url, select_dialect
from ..stores.originals import Originals, OriginalsError
from . import checkpoints, serve
from .client_setup import Setup

PROBE_BYTES = 2**16  # size of the test file in the data directory
_VERSION_HEADER: tuple[str, str] = ("anthropic-version", "2023-06-01")


class Check(NamedTuple):
    """A check, its result, and a remedy; the check passed if the remedy is empty."""

    name: str
    result: str
    remedy: str = ""


class ModelsReply(NamedTuple):
    """The response of an upstream to a request for its models, or the error that prevented one."""

    url: str
    status: int = 0
    content_type: str = ""
    redirect_url: str = ""
    error: str = ""


async def run_checks(settings: Settings, apis: Sequence[str] = ("openai",)) -> list[Check]:
    """Run all checks, with the upstreams of these APIs (`openai`, `anthropic`) among them; never raises."""
    local = [
        _check_environment(),
        _check_data_dir(settings),
        *await _check_stores(settings),
        await _check_access(settings),
        _check_port(settings),
    ]
    return [*local, *await _check_upstreams(settings, apis), *await asyncio.to_thread(_check_engine, settings)]


def _check_environment() -> Check:
    unknown = configuration.find_unknown_variables()
    if unknown:
        names = ", ".join(f"{name}{suggestion}" for name, suggestion in unknown.items())
        return Check("environment", f"unknown setting {names}", "correct the name, or unset the variable")
    return Check("environment", "every CLARA_ variable is a known setting")


def _check_data_dir(settings: Settings) -> Check:
    folder = settings.data_dir.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        is_full = error.errno == errno.ENOSPC
        remedy = "free space on its disk" if is_full else "set CLARA_DATA_DIR to a writable directory"
        return Check("data directory", f"{folder}: {describe(error)}", remedy)
    return Check("data directory", f"{folder} is writable, {free / 2**30:,.1f} GiB free")


async def _check_stores(settings: Settings) -> list[Check]:
    """Open the ledger and the originals if they are on a server or exist already; creates neither."""
    folder = settings.data_dir.expanduser()
    checks: list[Check] = []
    if settings.ledger_url or (folder / "ledger.sqlite3").exists():
        url = ledger_url(folder, settings.ledger_url)
        checks.append(await _check_ledger(url, is_file=not settings.ledger_url))
    if settings.originals_url or settings.originals_key or (folder / "originals.sqlite3").exists():
        checks.append(await _check_originals(settings, folder / "originals.sqlite3"))
    return checks


async def _check_ledger(url: str, *, is_file: bool) -> Check:
    remedy = "run `clara-proxy ledger verify`, or set CLARA_DATA_DIR" if is_file else "check CLARA_LEDGER_URL"
    try:
        engine = await select_dialect(url).open()
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        finally:
            await engine.dispose()
    except Exception as error:  # noqa: BLE001 - database drivers share no base class
        reason = str(error) if isinstance(error.__cause__, ImportError) else describe(error)
        return Check("ledger", f"cannot be opened: {reason}", remedy)
    return Check("ledger", "can be opened")


async def _check_originals(settings: Settings, file: Path) -> Check:
    location = settings.originals_url or file
    remedy = "check CLARA_ORIGINALS_URL and CLARA_ORIGINALS_KEY" if settings.originals_url else "check CLARA_DATA_DIR"
    try:
        originals = Originals(location, settings.originals_ttl, encryption_keys=settings.originals_key)
        if settings.originals_url is not None or await asyncio.to_thread(file.exists):
            await originals.start()
            await originals.stop()
    except OriginalsError as error:
        return Check("originals", f"cannot be opened: {describe(error)}", remedy)
    return Check("originals", "can be opened")


async def _check_access(settings: Settings) -> Check:
    try:
        if await serve.is_unprotected(settings):
            return Check(
                "access",
                f"other machines can reach {settings.host}, and there are no API keys: the proxy will not start",
                "create a key with `clara-proxy keys create NAME`, or set CLARA_HOST=127.0.0.1 or CLARA_OPEN=true",
            )
    except (KeyStoreError, ValueError) as error:
        return Check("access", str(error), "the API keys are in the ledger's database: fix the ledger first")
    if is_loopback(settings.host):
        return Check("access", f"only this machine can reach {settings.host}")
    if settings.open:
        return Check("access", f"{settings.host} accepts every client (CLARA_OPEN) until an API key exists")
    return Check("access", f"{settings.host} accepts clients with an API key")


def _check_port(settings: Settings) -> Check:
    address = f"{settings.host}:{settings.port}"
    try:
        serve.bind_socket(settings.host, settings.port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_proxy_running(settings):
            return Check("port", f"{address}: the proxy is running")
        if error.errno == errno.EADDRINUSE:
            remedy = "stop the program that uses it, or set CLARA_PORT"
        elif error.errno == errno.EACCES:
            remedy = "set CLARA_PORT to a port above 1023"
        else:
            remedy = "set CLARA_HOST to an address of this machine"
        return Check("port", f"{address}: {describe(error)}", remedy)
    return Check("port", f"{address} is free")


def _is_proxy_running(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    return [_fetch_json(f"{base}{path}") for path in ("/livez", "/readyz")] == [{"status": "ok"}, {"status": "ready"}]


def _fetch_json(url: str) -> object:
    """Return the JSON at a URL, fetched directly and not through an outbound proxy; None on any error."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            body: object = json.loads(response.read(1000))
            return body
    except (OSError, ValueError):
        return None


async def _check_upstreams(settings: Settings, apis: Sequence[str]) -> list[Check]:
    """Request the models of each upstream; of Anthropic, too, if one of its settings is set."""
    checks = await _check_openai(settings) if "openai" in apis else []
    is_only_api = tuple(apis) == ("anthropic",)
    if is_only_api or {"anthropic_base_url", "anthropic_api_key"} & settings.model_fields_set:
        key = settings.anthropic_api_key
        anthropic_headers = [_VERSION_HEADER, *([("x-api-key", key)] if key else [])]
        reply = await _request_models(settings, settings.anthropic_base_url, anthropic_headers)
        key_name = "CLARA_ANTHROPIC_API_KEY" if key else ""
        checks += _check_models_reply("Anthropic", "CLARA_ANTHROPIC_BASE_URL", reply, key_name)
    return checks


async def _check_openai(settings: Settings) -> list[Check]:
    base_url, key = settings.upstream_base_url, settings.upstream_api_key
    bearer = key or client_environment.read_openai_key(base_url)
    reply = await _request_models(settings, base_url, [("authorization", f"Bearer {bearer}")] if bearer else [])
    key_name = "CLARA_UPSTREAM_API_KEY" if key else "OPENAI_API_KEY" if bearer else ""
    return _check_models_reply("upstream", "CLARA_UPSTREAM_BASE_URL", reply, key_name)


async def _request_models(settings: Settings, base_url: str, request_headers: list[tuple[str, str]]) -> ModelsReply:
    url = headers.build_upstream_url(base_url, {"path": "/v1/models"})
    redacted_url = client_environment.redact_url(url)
    upstream = Upstream(
        connect_timeout=settings.connect_timeout, read_timeout=30, decompress=True, proxy=settings.upstream_proxy
    )
    try:
        async with upstream.send("GET", url, request_headers, None) as reply:
            locations = (value.decode("latin-1") for name, value in reply.headers if name.lower() == b"location")
            location = client_environment.redact_url(next(locations, ""))
            return ModelsReply(redacted_url, reply.status, reply.content_type, location)
    except ApiError as error:
        return ModelsReply(redacted_url, error=error.message)
    finally:
        await upstream.close()


def _check_models_reply(name: str, setting: str, reply: ModelsReply, key_name: str) -> list[Check]:
    url, status = reply.url, reply.status
    if reply.error:
        return [Check(name, f"{url}: {reply.error}", f"check {setting} and the network")]
    if 300 <= status < 400:
        remedy = f"correct {setting}; redirects are not followed, because they could leak the API key"
        return [Check(name, f"{url} redirects to {reply.redirect_url or 'an unknown address'}", remedy)]
    if status in (404, 405) or (status < 300 and reply.content_type == "text/html"):
        remedy = f"correct {setting}; it usually ends in /v1, without /chat/completions"
        return [Check(name, f"{url}: {'a web page' if status < 300 else f'status {status}'}", remedy)]
    if status == 508:
        return [Check(name, f"{url}: the proxy sends requests to itself", f"set {setting} to the provider's address")]
    if status >= 500:
        return [
            Check(name, f"{url}: status {status}", "ask the operator of the upstream; the API key is not the cause")
        ]
    return [Check(name, f"{url} responds"), _check_key(name, status, key_name)]


def _check_key(upstream: str, status: int, key_name: str) -> Check:
    label = "API key" if upstream == "upstream" else f"{upstream} API key"
    if not key_name:
        return Check(label, "not tested: every client sends its own")
    if status in (401, 403):
        return Check(label, f"{key_name} is rejected with status {status}", f"correct {key_name}")
    if status >= 400:
        return Check(label, f"{key_name}: status {status}", "ask the operator of the upstream")
    return Check(label, f"{key_name} is accepted")


def _check_engine(settings: Settings) -> list[Check]:
    """Check the compressors and the mode; a configured CLaRa model is verified as by `clara-proxy models verify`."""
    checks = [Check("engine", "extract is available; it needs no model"), _check_clara(settings)]
    if problem := local_pruner.describe_problem(settings):
        checks.append(Check("pruner", problem, "correct the setting; without it the proxy will not start"))
    elif settings.pruner is not None:
        checks.append(Check("pruner", f"{settings.pruner} prunes in the mode prune"))
    if problem := local_model.describe_unavailable_mode(settings):
        checks.append(Check("mode", problem, "set CLARA_MODE=auto, or set CLARA_MODEL"))
    return checks


def _check_clara(settings: Settings) -> Check:
    model = local_model.resolve_local_model(settings)
    if model is None:
        reason = "CLARA_MODEL disables it" if settings.model else "the extra [clara] is not installed (optional)"
        return Check("CLaRa", f"no model: {reason}")
    if problem := local_model.describe_unavailable_model(settings):
        return Check("CLaRa", problem, "correct the setting; without it the proxy will not start")
    if model == NANO_NAME:
        return Check("CLaRa", "clara-nano answers /compress and requests for the model clara")
    hub = checkpoints.HuggingFace(settings.cache.expanduser() if settings.cache else None)
    finding = checkpoints.verify_checkpoint(model, settings.subfolder, settings.base, hub)[-1]
    if finding.is_ok:
        return Check("CLaRa", f"{model} is complete")
    return Check("CLaRa", finding.result, "run `clara-proxy models verify` and `pull`, or unset CLARA_MODEL")


def check_client(setup: Setup, settings: Settings) -> list[Check]:
    """Check the work of `wrap` for a client; the last result is the client's setting beside `clara-proxy serve`."""
    client, name = setup.client, setup.command[0]
    if client is None:
        return []
    path = shutil.which(name)
    checks = [Check(client.title, path) if path else Check(client.title, f"{name} is not installed", client.install)]
    checks += [Check(client.title, *problem) for problem in setup.problems]
    for variable, value in {**client.variables, **client.first_party_variables}.items():
        own = setup.environment.get(variable)
        if own and own != value and not (variable in client.first_party_variables and own.startswith("auto")):
            checks.append(Check(client.title, f"{variable} is {own}, expected {value}", f"unset {variable}"))
    url = f"http://{settings.host}:{settings.port}"
    words = [
        f"{key}={shlex.quote(value)}" for key, value in setup.build_variables(url, settings.anthropic_base_url).items()
    ]
    command = shlex.join(setup.build_command(url))
    if client.limit:
        return checks
    return [*checks, Check(client.title, f"beside `clara-proxy serve`, start it with: {' '.join([*words, command])}")]
