"""Brings an answer back to the client: status, headers and body as they came, and the usage read while they pass."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from time import perf_counter

import orjson

from . import errors, headers, shapes, sse
from .errors import ApiError, UpstreamError
from .exchange import EVENTS, JSON, Exchange
from .providers import Providers
from .shapes import Json
from .upstream import Reply
from .visit import Visit

_REFRAMED = frozenset({b"content-length", b"content-encoding"})


async def from_upstream(exchange: Exchange, visit: Visit, reply: Reply, *, strip_usage: bool) -> None:
    """Relay an upstream's reply, streamed or not."""
    visit.status = reply.status
    visit.outcome = "ok" if reply.status < 400 else "upstream_error"
    kept = headers.downward(reply.headers, without=_REFRAMED) + visit.response_headers()
    if reply.content_type == "text/event-stream":
        visit.streamed = True
        await exchange.start(reply.status, kept)
        await _stream(exchange, visit, reply.chunks(), strip_usage=strip_usage)
    else:
        payload = await reply.read()
        visit.usage = (shapes.parsed(payload) or {}).get("usage")
        await exchange.respond(reply.status, kept, payload)


async def from_provider(
    exchange: Exchange, visit: Visit, providers: Providers, body: Json, *, strip_usage: bool
) -> None:
    """Relay what litellm answers, in OpenAI's shape."""
    if body.get("stream") is not True:
        answer = await providers.complete(body)
        visit.status, visit.usage = 200, answer.get("usage")
        await exchange.respond(200, JSON + visit.response_headers(), orjson.dumps(answer))
        return
    async with aclosing(providers.stream(body)) as chunks:
        first = await anext(chunks, None)  # a provider that refuses must be answered with its status
        visit.status = 200
        await exchange.start(200, EVENTS + visit.response_headers())
        await _stream(exchange, visit, _encoded(first, chunks), strip_usage=strip_usage)


async def _encoded(first: Json | None, rest: AsyncIterator[Json]) -> AsyncIterator[bytes]:
    if first is not None:
        yield sse.event(orjson.dumps(first))
    async for chunk in rest:
        yield sse.event(orjson.dumps(chunk))
    yield sse.event(b"[DONE]")


async def _stream(exchange: Exchange, visit: Visit, chunks: AsyncIterator[bytes], *, strip_usage: bool) -> None:
    tap = sse.UsageTap(strip=strip_usage)
    try:
        async for chunk in chunks:
            if passed := tap.feed(chunk):
                await exchange.write(passed)
        rest = tap.end()
    except ApiError as error:
        visit.outcome = "upstream_error"
        rest = tap.broken() + sse.event(error.body())
    finally:
        visit.usage = tap.usage
    await exchange.end(rest)


async def refuse(exchange: Exchange, visit: Visit, error: ApiError) -> None:
    """Answer with an error; in a stream that has begun, as its last event."""
    visit.status = error.status
    visit.outcome = "rejected" if error.status < 500 else "failed"
    if isinstance(error, UpstreamError):
        visit.outcome = "upstream_error"
    if exchange.started:
        await exchange.end(sse.event(errors.body(error.status, error.message, code=error.code)))
        return
    own = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    visit.overhead = visit.overhead or perf_counter() - visit.started
    await exchange.respond(error.status, JSON + own + visit.response_headers(), error.body())
