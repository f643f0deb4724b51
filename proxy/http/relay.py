"""Relays an upstream's reply to the client: status, headers and body unchanged, with the usage read on the way."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from traceback import format_tb
from typing import Protocol

from ..protocols import api_errors, json_types, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json
from ..protocols.protocol import ProtocolAdapter
from . import headers
from .exchange import JSON_HEADERS, ClientDisconnected, Exchange, RawHeaders
from .request_context import RequestContext

log = logging.getLogger(__name__)


class Reply(Protocol):
    """A response of the upstream or of litellm, with its body still to be read."""

    status: int
    headers: RawHeaders
    content_type: str

    async def read(self) -> bytes:
        """Read the whole body."""
        ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body piece by piece, as it arrives."""
        ...


async def relay_reply(
    exchange: Exchange, context: RequestContext, reply: Reply, adapter: ProtocolAdapter, *, strip_usage: bool
) -> None:
    """Relay an upstream's reply, streamed or not."""
    context.status = reply.status
    context.outcome = "ok" if reply.status < 400 else "upstream_error"
    upstream_headers = headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
    response_headers = upstream_headers + context.build_response_headers()
    if reply.content_type == "text/event-stream":
        context.is_streamed = True
        await exchange.start_response(reply.status, response_headers)
        await _relay_stream(exchange, context, reply.chunks(), adapter, strip_usage=strip_usage)
    else:
        payload = await reply.read()
        message = json_types.parse_object(payload)
        record_reply_error(context, message)
        context.usage = (message or {}).get("usage")
        await exchange.send_response(reply.status, response_headers, payload)


def record_reply_error(context: RequestContext, message: Json | None) -> None:
    """Record an upstream error if a reply reports one, whatever its status, or is not a JSON object."""
    if message is None or api_errors.has_error(message):
        context.outcome = "upstream_error"


async def _relay_stream(
    exchange: Exchange,
    context: RequestContext,
    chunks: AsyncIterator[bytes],
    adapter: ProtocolAdapter,
    *,
    strip_usage: bool,
) -> None:
    tap = sse.UsageTap(strip=strip_usage)
    try:
        async for chunk in chunks:
            if visible := tap.feed(chunk):
                await exchange.write_chunk(visible)
        rest = tap.flush()
        context.outcome = "upstream_error" if tap.has_failed else context.outcome
    except ApiError as error:
        context.outcome = "upstream_error"
        rest = tap.discard_partial_event() + adapter.encode_error_event(error)
    finally:
        context.usage = tap.usage
    await exchange.end_response(rest)


@asynccontextmanager
async def answer_errors(
    exchange: Exchange, context: RequestContext, adapter: ProtocolAdapter | None = None, *, is_passthrough: bool = False
) -> AsyncGenerator[None]:
    """Answer every exception raised inside with an error in the API's shape.

    With `is_passthrough`, a body that has started is aborted instead: an error event might not be valid in it.
    """
    try:
        yield
    except ClientDisconnected:
        raise
    except ApiError as error:
        if is_passthrough and exchange.is_disconnected:  # the client left while sending, and so our request broke off
            raise ClientDisconnected from error
        if is_passthrough and exchange.has_started:
            raise
        await send_error(exchange, context, error, adapter)
    except Exception as error:
        log.error("a request failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
        if is_passthrough and exchange.has_started:
            raise
        await send_error(exchange, context, ApiError(500, "the proxy failed", code="internal_error"), adapter)


async def send_error(
    exchange: Exchange, context: RequestContext, error: ApiError, adapter: ProtocolAdapter | None
) -> None:
    """Answer with an error, as the last event if a stream has started."""
    context.record_error(error)
    if exchange.has_started:
        event = sse.encode_event(error.encode()) if adapter is None else adapter.encode_error_event(error)
        await exchange.end_response(event)
        return
    context.status = error.status
    error_headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    context.overhead_seconds = context.overhead_seconds or perf_counter() - context.start_time
    body = error.encode() if adapter is None else adapter.encode_error(error)
    await exchange.send_response(error.status, JSON_HEADERS + error_headers + context.build_response_headers(), body)
