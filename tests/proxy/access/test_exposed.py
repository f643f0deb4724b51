"""An open proxy and web pages, keys in URLs, loops, required keys and a lost ledger."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from clara_proxy.compression import memo
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.access import origins
from clara_proxy.proxy.app import Application, create_app
from clara_proxy.proxy.http.headers import filter_response_headers
from clara_proxy.proxy.http.upstream import VIA_NAME
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, create_key, open_key_store
from clara_proxy.proxy.stores.errors import StartupError
from clara_proxy.proxy.stores.ledger import ledger_url
from clara_proxy.tests.faulty import FaultyUpstream

PAGE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
LISTED = "https://app.example.com"


@asynccontextmanager
async def open_app(folder: Path, upstream: str = "http://127.0.0.1:9", **settings: Any) -> AsyncGenerator[Application]:
    app: Any = create_app(Settings(upstream_base_url=f"{upstream}/v1", data_dir=folder, model="none", **settings))
    async with app.router.lifespan_context(app):
        yield app


async def send(
    app: Application, path: str = "/v1/models", method: str = "GET", query: str = "", **headers: str
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Send a request in this process and return the status, the body and the headers."""
    received: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def reply(message: Any) -> None:
        received.append(message)

    named = {"host": "127.0.0.1:8765", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "server": ("127.0.0.1", 8765), "client": ("127.0.0.1", 5), "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }  # fmt: skip
    await app(scope, receive, reply)
    return received[0]["status"], b"".join(m.get("body", b"") for m in received), dict(received[0]["headers"])


FOREIGN: list[dict[str, str]] = [
    PAGE,
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://evil.example:8765", "host": "evil.example:8765", "sec-fetch-site": "same-origin"},  # rebinding
    {"host": "evil.example:8765", "sec-fetch-site": "same-origin"},
]
OWN: list[dict[str, str]] = [
    {},
    {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a link to the dashboard
    {"origin": "vscode-webview://abc", "sec-fetch-site": "cross-site"},
    {"origin": LISTED, "sec-fetch-site": "cross-site"},
]


@pytest.mark.parametrize("is_open", [False, True])
def test_only_foreign_pages_are_foreign(is_open: bool) -> None:
    def is_foreign(headers: dict[str, str]) -> bool:
        named = {"host": "127.0.0.1:8765"} | headers
        raw = {name.encode(): value.encode() for name, value in named.items()}
        return origins.is_foreign_page(raw, {LISTED.encode()}, is_open=is_open)

    assert [is_foreign(headers) for headers in FOREIGN] == [True] * len(FOREIGN)
    assert [is_foreign(headers) for headers in OWN] == [False] * len(OWN)
    assert is_foreign({"host": "clara.example.com"}) is not is_open  # a program that uses a name
    lan = {"host": "192.168.1.5:8765", "origin": "http://192.168.1.5:8765"}
    assert is_foreign(lan) is not is_open


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_foreign_page_cannot_use_an_open_proxy(tmp_path: Path, upstream: FaultyUpstream, is_open: bool) -> None:
    async with open_app(tmp_path, upstream.url, open=is_open, cors_origins=(LISTED,)) as app:
        for headers in FOREIGN:
            status, body, _ = await send(app, **headers)
            assert (status, b"foreign_origin" in body) == (403, True), headers
        assert not upstream.requests
        status, _, headers_back = await send(app, origin=LISTED)
        assert (status, headers_back[b"access-control-allow-origin"]) == (200, LISTED.encode())
        preflight = {"origin": LISTED, "access-control-request-method": "POST"}
        status, _, headers_back = await send(app, "/v1/chat/completions", "OPTIONS", **preflight)
        assert (status, headers_back[b"access-control-allow-origin"]) == (200, LISTED.encode())
        _, _, headers_back = await send(
            app, "/v1/models", "OPTIONS", **(preflight | {"origin": "https://evil.example"})
        )
        assert b"access-control-allow-origin" not in headers_back


KEY = KEY_PREFIX + "0" * 56
ENCODED = ["sk%2Dclara-" + "0" * 56, quote(quote(KEY.replace("-", "%2D"))), "%73%6b-clara-" + "0" * 56]


@pytest.mark.parametrize("text", [KEY, *ENCODED])
async def test_a_key_in_a_url_is_refused_however_it_is_encoded(
    tmp_path: Path, upstream: FaultyUpstream, text: str
) -> None:
    async with open_app(tmp_path, upstream.url) as app:
        for path, query in (("/v1/models", f"key={text}"), (f"/v1/models/{text}", ""), ("/v1/models", f"a=b&{text}")):
            status, body, _ = await send(app, path, query=query)
            assert (status, b"key_in_address" in body) == (400, True)
        await app.state.services.ledger.flush()
        rows = await app.state.services.ledger.read_newest_rows()
    assert not upstream.requests
    assert not [row for row in rows if "clara-0" in row.path or "%" in row.path]


async def test_a_request_that_comes_back_is_refused(tmp_path: Path, upstream: FaultyUpstream) -> None:
    async with open_app(tmp_path, upstream.url) as app:
        assert (await send(app, via="1.1 another, 1.1 clara-0123456789ab"))[0] == 200
        sent = upstream.last_request.header_values("via")
        assert [value.endswith(VIA_NAME.encode()) for value in sent] == [False, True]
        status, body, _ = await send(app, via=f"1.1 another, {sent[-1].decode()}")
        assert (status, b"loop_detected" in body) == (508, True)


def test_headers_of_the_proxy_cannot_come_from_the_upstream() -> None:
    headers = [(b"X-Clara-Tokens-Saved", b"9"), (b"x-request-id", b"1"), (b"x-clara-x", b"1")]
    assert filter_response_headers(headers) == [(b"x-request-id", b"1")]


async def test_required_keys_keep_a_proxy_without_keys_closed(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="keys create NAME"):
        async with open_app(tmp_path, require_keys=True, open=True):
            pass
    async with open_key_store(ledger_url(tmp_path)) as keys:
        await keys.add(create_key("alice", created=1.0)[1])
    async with open_app(tmp_path, require_keys=True, open=True) as app:
        await app.state.services.keyring._key_store.revoke("alice", 2.0)
        while app.state.services.keyring.requires_key:
            await app.state.services.keyring._refresh_keys()
        assert (await send(app))[0] == 401


def _delete(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


@pytest.mark.parametrize("damage", ["missing", "truncated", "without tables"])
async def test_a_lost_ledger_is_reported_at_start(tmp_path: Path, damage: str) -> None:
    async with open_app(tmp_path):
        pass
    _delete(tmp_path, "ledger.sqlite3*")
    if damage != "missing":
        (tmp_path / "ledger.sqlite3").write_bytes(b"")
    if damage == "without tables":
        process = await asyncio.create_subprocess_exec(
            "python3", "-c", f"import sqlite3; c = sqlite3.connect({str(tmp_path / 'ledger.sqlite3')!r}); "
            "c.execute('CREATE TABLE t (x)'); c.execute('DROP TABLE t'); c.commit()",
        )  # fmt: skip
        assert await process.wait() == 0
    with pytest.raises(StartupError, match=r"ledger.sqlite3 is missing or empty.*keys create NAME.*delete"):
        async with open_app(tmp_path):
            pass
    async with open_key_store(ledger_url(tmp_path)) as keys:  # as the message says
        await keys.add(create_key("alice", created=1.0)[1])
    async with open_app(tmp_path) as app:
        assert (await send(app))[0] == 401


async def test_a_lost_ledger_may_be_given_up_with_the_originals(tmp_path: Path) -> None:
    async with open_app(tmp_path):
        pass
    _delete(tmp_path, "*.sqlite3*")
    async with open_app(tmp_path):
        pass


@pytest.mark.parametrize(
    "url", ["http://", "https://:80/v1", "http://a b/v1", "http://x:99999/v1", "http://[::1/v1", "x"]
)
def test_a_bad_upstream_url_is_reported(url: str) -> None:
    for name in ("upstream_base_url", "anthropic_base_url"):
        with pytest.raises(ValueError, match=r"must be a URL with a host|must begin with"):
            Settings(model="none", **{name: url})  # type: ignore[arg-type]


def test_what_one_owner_sent_is_not_remembered_for_another() -> None:
    calls: list[str] = []
    function = memo.Memo(calls.append, 10)
    for owner in ("alice", "bob", "alice", "bob"):
        memo.owner.set(owner)
        function("text")
        assert function.split_known(["text"]) == ([None], [])
    assert len(calls) == 2
    memo.owner.set("carol")
    assert function.split_known(["text"]) == ([], ["text"])
