"""Checks that everything the proxy needs is there; every finding that is not well says what to do."""

import tempfile
from importlib.util import find_spec
from typing import NamedTuple

from ...config import settings as configuration
from ...config.settings import Settings
from ..upstream import Upstream
from ..wires.errors import ApiError
from . import serve


class Check(NamedTuple):
    """One thing looked at: what was found, and what to do about it; all is well when that is nothing."""

    name: str
    found: str
    remedy: str = ""


async def checks(settings: Settings) -> list[Check]:
    """Look at everything; never raises."""
    return [_environment(), _data_dir(settings), _port(settings), *await _upstream(settings), _engine()]


def _environment() -> Check:
    unknown = configuration.unknown()
    if unknown:
        return Check("environment", f"no setting reads {', '.join(unknown)}", "see the table in docs/settings.md")
    return Check("environment", "every CLARA_ variable is a setting")


def _data_dir(settings: Settings) -> Check:
    folder = settings.data_dir.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("data directory", f"{folder}: {error.strerror}", "name another one in CLARA_DATA_DIR")
    return Check("data directory", f"{folder} is writable")


def _port(settings: Settings) -> Check:
    where = f"{settings.host}:{settings.port}"
    try:
        serve.bound(settings.host, settings.port).close()
    except OSError as error:
        remedy = "stop what listens there (is the proxy running already?) or set CLARA_PORT"
        return Check("port", f"{where}: {error.strerror}", remedy)
    return Check("port", f"{where} is free")


async def _upstream(settings: Settings) -> list[Check]:
    """Ask the upstream for its models: that needs it to be there, and the key to be right."""
    upstream = Upstream(connect_timeout=settings.connect_timeout, read_timeout=30, unpack=True)
    key = settings.upstream_api_key
    url = f"{settings.upstream_base_url.rstrip('/')}/models"
    try:
        async with upstream.send("GET", url, [("authorization", f"Bearer {key}")] if key else [], None) as reply:
            status = reply.status
    except ApiError as error:
        return [Check("upstream", f"{url}: {error.message}", "check CLARA_UPSTREAM_BASE_URL and the network")]
    finally:
        await upstream.close()
    return [Check("upstream", f"{url} answers"), _key(status, given=key is not None)]


def _key(status: int, *, given: bool) -> Check:
    if status in (401, 403):
        if given:
            return Check("key", f"refused with status {status}", "check CLARA_UPSTREAM_API_KEY")
        return Check("key", "none configured; every client sends its own")
    remedy = "" if status < 400 else "ask the upstream's operator: this is not about the key"
    return Check("key", f"the upstream answered with status {status}", remedy)


def _engine() -> Check:
    has_torch = find_spec("torch") is not None
    why = "torch is here, but no CLaRa model is configured" if has_torch else "torch is not installed"
    return Check("engine", f"extract: verbatim pieces, no model needed ({why})")
