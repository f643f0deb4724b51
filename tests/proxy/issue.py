"""Keys for tests: made in a ledger's database, as `clara-proxy keys create` does, before or while a proxy runs."""

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
from clara_proxy.proxy.stores.api_keys import Key, made, opened
from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.tests import running
from clara_proxy.tests.running import PATIENCE, Proxy

OFTEN = 0.05  # seconds after which a proxy under test has noticed
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # making one for each request would take longer than the request


def issued(where: Path | str, name: str, *, admin: bool = False, project: str = "", **limits: Any) -> str:
    """Make a key, in the folder of a proxy or at a URL, and return what its holder is told."""
    text, key = made(name, project=project, admin=admin, created=time.time())
    asyncio.run(_add(_url(where), key._replace(**limits)))
    return text


def revoked(where: Path | str, name: str) -> int:
    """Revoke a key."""
    return asyncio.run(_revoke(_url(where), name))


@contextmanager
def proxy(upstream: str, folder: Path, **chosen: Any) -> Generator[Proxy]:
    """Run a proxy that notices at once when keys change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "Keyring", partial(Keyring, every=OFTEN))
        with running.proxy(upstream, folder, **chosen) as proxy:
            yield proxy


def rows(where: Path | str) -> list[Row]:
    """Read all rows of a ledger that nobody writes to any more."""
    return asyncio.run(_rows(_url(where)))


def write(where: Path | str, row: Row) -> None:
    """Write one row, as a proxy does."""
    asyncio.run(_write(_url(where), row))


def ask(proxy: Proxy, path: str, *, method: str = "GET", **options: Any) -> httpx.Response:
    """Ask a proxy anything, with nothing added."""
    return httpx.request(method, proxy.url + path, timeout=PATIENCE, verify=_NO_TLS, **options)


def _url(where: Path | str) -> str:
    return where if isinstance(where, str) else ledger_url(where)


async def _write(url: str, row: Row) -> None:
    ledger = Ledger(url)
    await ledger.start()
    ledger.write(row)
    await ledger.stop()


async def _rows(url: str) -> list[Row]:
    ledger = Ledger(url)
    await ledger.start()
    try:
        return [row async for row in ledger.all_rows()]
    finally:
        await ledger.stop()


async def _add(url: str, key: Key) -> None:
    async with opened(url) as keys:
        await keys.add(key)


async def _revoke(url: str, name: str) -> int:
    async with opened(url) as keys:
        return await keys.revoke(name, time.time())


def until(true: Callable[[], bool]) -> None:
    """Wait for what must happen soon."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(OFTEN)
