"""A proxy that really runs, on loopback before any upstream, and its ledger read back.

Leaving `proxy` stops it and holds every row it wrote to the ledger's own arithmetic (law 7).
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import create_engine, select

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Compressor
from clara_proxy.compression.engine import Engine
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.app import create_app
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.protocols import chat
from clara_proxy.proxy.runtime import services
from clara_proxy.proxy.stores import accounting
from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.ledger_schema import LEDGER_TABLE

TIMEOUT = 20.0  # seconds until a row must be in the ledger
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # making one for each request would take longer than the request
CLIENT_KEY = "sk-client-0123456789"
LOG_TEXT = "\n".join(
    f"2024-01-01 10:00:{at % 60:02d} INFO request {at} served in {at * 7 % 13} ms" for at in range(400)
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, and where it keeps its data."""

    url: str
    folder: Path

    def post(self, body: bytes | dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """Send one request with a key; of the headers' names `_` stands for `-`."""
        named = {"authorization": f"Bearer {CLIENT_KEY}", "content-type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(self.url + path, headers=named, timeout=TIMEOUT, verify=_NO_TLS, **content)

    def read_rows(self) -> list[Row]:
        """Read the newest rows of the ledger."""
        return asyncio.run(_read_rows(self.folder, limit=50))

    def wait_for_row(self, of: httpx.Response | str) -> Row:
        """Return the row of a response, or of the one request labelled with this session, as soon as it is there."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for row in self.read_rows():
                if row.session == of or (not isinstance(of, str) and row.id == of.headers["x-clara-request-id"]):
                    return row
            time.sleep(0.02)
        raise AssertionError("there is no such row in the ledger")


@contextmanager
def run_proxy(
    upstream: str, folder: Path, find_compressor: Callable[[str], Compressor] = registry.find_compressor, **chosen: Any
) -> Generator[Proxy]:
    """Run a proxy before an upstream, with these settings and, for a test of failures, other compressors."""
    urls = {"upstream_base_url": f"{upstream}/v1", "anthropic_base_url": f"{upstream}/v1"}
    default: dict[str, Any] = {**urls, "data_dir": folder, "model": "none"}
    settings = Settings(**(default | chosen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "Engine", partial(Engine, find_compressor=find_compressor))
        patch.setattr(services, "Ledger", partial(Ledger, flush_interval=0.01))  # a test must not wait for its row
        starting = serve.run_in_thread(create_app(settings))
        url = starting.__enter__()
    try:
        yield Proxy(url, folder)
    finally:
        starting.__exit__(None, None, None)
    complaints = [
        (found, row)
        for row in asyncio.run(_read_rows(folder, limit=10_000))
        if (found := accounting.find_inconsistencies(row))
    ]
    assert not complaints, f"the ledger does not add up: {complaints}"


async def _read_rows(folder: Path, limit: int) -> list[Row]:
    # Without a `Ledger`, which takes 150 ms to start: tests read their rows several hundred times.
    newest = select(LEDGER_TABLE).order_by(LEDGER_TABLE.c.at.desc()).limit(limit)
    engine = create_engine(ledger_url(folder))
    try:
        with engine.connect() as connection:
            return [Row(*row) for row in connection.execute(newest)]
    finally:
        engine.dispose()


def tool_chat(text: str = LOG_TEXT, **more: Any) -> dict[str, Any]:
    """Return a request whose tool answer can be made shorter."""
    call = {"id": "c1", "type": "function", "function": {"name": "logs", "arguments": "{}"}}
    return {
        "model": "gpt-4o",
        "messages": [
            {"role": "user", "content": "why did it fail?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": text + "\n2024-01-01 ERROR disk full on /dev/sda1"},
        ],
        **more,
    }


EXPAND_TOOL_JSON = b"," + orjson.dumps(chat.ADAPTER.build_expand_tool({"tools": [{}]}))


def remove_expand_tool(body: bytes) -> bytes:
    """Return a body as it was before the proxy offered its tool, which it has done once."""
    assert body.count(EXPAND_TOOL_JSON) == 1
    return body.replace(EXPAND_TOOL_JSON, b"")


def short_chat(**more: Any) -> dict[str, Any]:
    """Return a request in which nothing is long enough to be made shorter."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **more}
