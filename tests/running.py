"""Runs a proxy on loopback in front of any upstream, and reads its ledger.

Leaving `run_proxy` stops the proxy and checks that all its ledger rows are consistent.
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
from sqlalchemy import create_engine, inspect, select

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

TIMEOUT = 20.0  # seconds after which a missing row fails the test
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # creating one for each request would take longer than the request
CLIENT_KEY = "sk-client-0123456789"
LOG_TEXT = "\n".join(
    f"2024-01-01 10:00:{number % 60:02d} INFO request {number} served in {number * 7 % 13} ms" for number in range(400)
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """The URL and the data directory of a running proxy."""

    url: str
    folder: Path

    def post(self, body: bytes | dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """Send a request with a key; `_` in the names of headers becomes `-`."""
        all_headers = {"authorization": f"Bearer {CLIENT_KEY}", "content-type": "application/json"}
        all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(self.url + path, headers=all_headers, timeout=TIMEOUT, verify=_NO_TLS, **content)

    def read_rows(self) -> list[Row]:
        """Return the newest rows of the ledger."""
        time.sleep(0.1)  # the proxy writes rows up to 10 ms after their responses
        return asyncio.run(_read_rows(self.folder, limit=50))

    def wait_for_row(self, of: httpx.Response | str) -> Row:
        """Wait for the row of a response, or of the request with this session label, and return it."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for row in asyncio.run(_read_rows(self.folder, limit=50)):
                if row.session == of or (not isinstance(of, str) and row.id == of.headers["x-clara-request-id"]):
                    return row
            time.sleep(0.02)
        raise AssertionError("the row is missing from the ledger")


@contextmanager
def run_proxy(
    upstream: str, folder: Path, find_compressor: Callable[[str], Compressor] = registry.find_compressor, **chosen: Any
) -> Generator[Proxy]:
    """Run a proxy in front of an upstream, with these settings and, to test failures, other compressors."""
    urls = {"upstream_base_url": f"{upstream}/v1", "anthropic_base_url": f"{upstream}/v1"}
    default: dict[str, Any] = {**urls, "data_dir": folder, "model": "none"}
    settings = Settings(**(default | chosen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "Engine", partial(Engine, find_compressor=find_compressor))
        patch.setattr(services, "Ledger", partial(Ledger, flush_interval=0.01))  # so that tests do not wait for rows
        server = serve.run_in_thread(create_app(settings))
        url = server.__enter__()
    try:
        yield Proxy(url, folder)
    finally:
        server.__exit__(None, None, None)
    problems = [
        (problem, row)
        for row in asyncio.run(_read_rows(folder, limit=10_000))
        if (problem := accounting.find_inconsistencies(row))
    ]
    assert not problems, f"the ledger is inconsistent: {problems}"


async def _read_rows(folder: Path, limit: int) -> list[Row]:
    # Without a `Ledger`, which takes 150 ms to start: tests read their rows several hundred times.
    if not (folder / "ledger.sqlite3").exists():
        return []  # the ledger is in another database
    newest = select(LEDGER_TABLE).order_by(LEDGER_TABLE.c.at.desc()).limit(limit)
    engine = create_engine(ledger_url(folder))
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(LEDGER_TABLE.name):  # the proxy writes to another database
                return []
            return [Row(*row) for row in connection.execute(newest)]
    finally:
        engine.dispose()


def tool_chat(text: str = LOG_TEXT, **more: Any) -> dict[str, Any]:
    """Return a request with a compressible tool output."""
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
    """Return a body without the one hidden tool that the proxy added."""
    assert body.count(EXPAND_TOOL_JSON) == 1
    return body.replace(EXPAND_TOOL_JSON, b"")


def short_chat(**more: Any) -> dict[str, Any]:
    """Return a request without compressible passages."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **more}
