"""Brings an answer back to the client: status, headers and body as they came, and the usage read while they pass."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from traceback import format_tb
from typing import Protocol

from ..protocols import api_errors, json_types, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json
from ..protocols.protocol import Wire
from . import headers
from .exchange import JSON_HEADERS, ClientGone, Exchange, RawHeaders
from .request_context import Visit

log = logging.getLogger(__name__)


class Reply(Protocol):
    """What came back from wherever the request went, its body still to be read."""

    status: int
    headers: RawHeaders
    content_type: str

    async def read(self) -> bytes:
        """Read the whole body."""
        ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body piece by piece, as it arrives."""
        ...


async def from_upstream(exchange: Exchange, visit: Visit, reply: Reply, wire: Wire, *, strip_usage: bool) -> None:
    """Relay an upstream's reply, streamed or not."""
    visit.status = reply.status
    visit.outcome = "ok" if reply.status < 400 else "upstream_error"
    kept = headers.downward(reply.headers, without=headers.REFRAMED) + visit.response_headers()
    if reply.content_type == "text/event-stream":
        visit.streamed = True
        await exchange.start_response(reply.status, kept)
        await _stream(exchange, visit, reply.chunks(), wire, strip_usage=strip_usage)
    else:
        payload = await reply.read()
        judge(visit, answer := json_types.parsed(payload))
        visit.usage = (answer or {}).get("usage")
        await exchange.send_response(reply.status, kept, payload)


def judge(visit: Visit, answer: Json | None) -> None:
    """Write down that an answer is none, whatever its status said: it tells of an error, or is no JSON object."""
    if answer is None or api_errors.is_told(answer):
        visit.outcome = "upstream_error"


async def _stream(
    exchange: Exchange, visit: Visit, chunks: AsyncIterator[bytes], wire: Wire, *, strip_usage: bool
) -> None:
    tap = sse.UsageTap(strip=strip_usage)
    try:
        async for chunk in chunks:
            if passed := tap.feed(chunk):
                await exchange.write_chunk(passed)
        rest = tap.end()
        visit.outcome = "upstream_error" if tap.failed else visit.outcome
    except ApiError as error:
        visit.outcome = "upstream_error"
        rest = tap.broken() + wire.error_event(error)
    finally:
        visit.usage = tap.usage
    await exchange.end_response(rest)


@asynccontextmanager
async def refusing(
    exchange: Exchange, visit: Visit, wire: Wire | None = None, *, raw: bool = False
) -> AsyncGenerator[None]:
    """Answer with an error where one is raised, also with one that nobody foresaw, in the API's shape.

    Of a body that is `raw`, and has begun, nothing can be said any more but that it is not whole: the error is raised.
    """
    try:
        yield
    except ClientGone:
        raise
    except ApiError as error:
        if raw and exchange.is_disconnected:  # while it was sending: what broke off then is our own request
            raise ClientGone from error
        if raw and exchange.has_started:
            raise
        await refuse(exchange, visit, error, wire)
    except Exception as error:
        log.error("a request failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
        if raw and exchange.has_started:
            raise
        await refuse(exchange, visit, ApiError(500, "the proxy failed", code="internal_error"), wire)


async def refuse(exchange: Exchange, visit: Visit, error: ApiError, wire: Wire | None) -> None:
    """Answer with an error; in a stream that has begun, as its last event."""
    visit.judge(error)
    if exchange.has_started:
        await exchange.end_response(sse.event(error.body()) if wire is None else wire.error_event(error))
        return
    visit.status = error.status
    own = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    visit.overhead = visit.overhead or perf_counter() - visit.started
    body = error.body() if wire is None else wire.error(error)
    await exchange.send_response(error.status, JSON_HEADERS + own + visit.response_headers(), body)
