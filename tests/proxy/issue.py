"""API keys for tests, created in the ledger's database as `clara-proxy keys create` does; a proxy may run meanwhile."""

import asyncio
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from clara_proxy.proxy.access.keyring import Keyring
from clara_proxy.proxy.runtime import services
from clara_proxy.proxy.stores import api_keys
from clara_proxy.proxy.stores.api_keys import ApiKey, open_key_store
from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.tests import running
from clara_proxy.tests.running import TIMEOUT, Proxy

REFRESH_INTERVAL = 0.05  # seconds until a proxy under test reads the keys again
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # creating one for each request takes longer than the request


def create_key(where: Path | str, name: str, *, admin: bool = False, project: str = "", **limits: Any) -> str:
    """Create a key in the folder of a proxy or in the database at a URL, and return its text."""
    text, key = api_keys.create_key(name, project=project, admin=admin, created=time.time())
    asyncio.run(_add_key(_resolve_url(where), key._replace(**limits)))
    return text


def revoke_key(where: Path | str, name: str) -> int:
    """Revoke a key and return the number of revoked keys."""
    return asyncio.run(_revoke_key(_resolve_url(where), name))


@contextmanager
def run_proxy(upstream: str, folder: Path, **settings: Any) -> Generator[Proxy]:
    """Run a proxy that reads changed keys at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "Keyring", partial(Keyring, refresh_seconds=REFRESH_INTERVAL))
        with running.run_proxy(upstream, folder, **settings) as proxy:
            yield proxy


def read_rows(where: Path | str) -> list[Row]:
    """Return all rows of a ledger that has no writer any more."""
    return asyncio.run(_read_rows(_resolve_url(where)))


def write_row(where: Path | str, row: Row) -> None:
    """Write one row to a ledger."""
    asyncio.run(_write_row(_resolve_url(where), row))


def send_request(proxy: Proxy, path: str, *, method: str = "GET", **options: Any) -> httpx.Response:
    """Send any request to a proxy, without adding headers."""
    return httpx.request(method, proxy.url + path, timeout=TIMEOUT, verify=_NO_TLS, **options)


def _resolve_url(where: Path | str) -> str:
    return where if isinstance(where, str) else ledger_url(where)


async def _write_row(url: str, row: Row) -> None:
    ledger = Ledger(url)
    await ledger.start()
    ledger.write(row)
    await ledger.stop()


async def _read_rows(url: str) -> list[Row]:
    ledger = Ledger(url)
    await ledger.start()
    try:
        return [row async for row in ledger.iter_rows()]
    finally:
        await ledger.stop()


async def _add_key(url: str, key: ApiKey) -> None:
    async with open_key_store(url) as keys:
        await keys.add(key)


async def _revoke_key(url: str, name: str) -> int:
    async with open_key_store(url) as keys:
        return await keys.revoke(name, time.time())


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true; fail after `TIMEOUT` seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition stayed false"
        time.sleep(REFRESH_INTERVAL)
