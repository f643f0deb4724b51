"""Relays an upstream's reply to the client: status, headers and body unchanged, with the usage read on the way."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from traceback import format_tb
from typing import NamedTuple, Protocol

from ..protocols import api_errors, json_types, offload, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json
from ..protocols.protocol import ProtocolAdapter
from . import headers
from .exchange import JSON_HEADERS, ClientDisconnected, Exchange, RawHeaders
from .request_context import RequestContext
from .upstream import MAX_BUFFERED_BYTES, too_large_error

log = logging.getLogger(__name__)
EVENT_STREAM = "text/event-stream"
_CANCELLATION_SECONDS = 0.5  # for telling a client that the proxy stops
_BUFFERING_HEADER = b"x-accel-buffering"
_BLANKS = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELD_PREFIXES = (b"data:", b"event:", b"id:", b"retry:", b":")
_PREFIX_BYTES = len(_BYTE_ORDER_MARK) + max(map(len, _FIELD_PREFIXES))  # enough to recognise an event


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


class OpenBody(NamedTuple):
    """A body that has begun: its first bytes and the chunks that follow them."""

    is_stream: bool
    is_json: bool
    start: bytes
    chunks: AsyncIterator[bytes]

    def strip_byte_order_mark(self) -> "OpenBody":
        """Return the body without a byte order mark, as clients read it."""
        content = self.start.lstrip(_BLANKS)
        return self._replace(start=content[3:]) if content.startswith(_BYTE_ORDER_MARK) else self

    async def read(self) -> bytes:
        """Read the whole body.

        Raises:
            UpstreamError: 502 for more than `MAX_BUFFERED_BYTES`.
        """
        parts, size = await self.read_parts()
        if size > MAX_BUFFERED_BYTES:
            raise too_large_error()
        return await offload.run_for(size, b"".join, parts)

    async def iter_pieces(self) -> AsyncGenerator[bytes]:
        """Yield the whole body, as it arrives, in pieces that are quick to process."""
        async for piece in sse.iter_pieces(self.start):
            yield piece
        async for chunk in self.chunks:
            if len(chunk) <= sse.PIECE_BYTES:  # nearly all of them
                yield chunk
                continue
            async for piece in sse.iter_pieces(chunk):
                yield piece

    async def read_parts(self) -> tuple[list[bytes], int]:
        """Read the whole body, or the first parts of one of more than `MAX_BUFFERED_BYTES`, and return their size."""
        parts, size = [self.start], len(self.start)
        while size <= MAX_BUFFERED_BYTES and (chunk := await anext(self.chunks, b"")):
            parts.append(chunk)
            size += len(chunk)
        return parts, size


async def open_body(exchange: Exchange, reply: Reply, response_headers: RawHeaders) -> OpenBody:
    """Read the first bytes of a reply, which tell events from JSON: many upstreams send a wrong content type, or none.

    Blanks before the body keep the connection alive, so they are sent to the client at once.
    """
    chunks, start, content = reply.chunks(), b"", b""
    async for chunk in chunks:
        start += chunk
        content = start.lstrip(_BLANKS + _BYTE_ORDER_MARK)
        if not start.strip(_BLANKS):
            if not exchange.has_started:
                await exchange.start_response(reply.status, response_headers)
            await exchange.write_chunk(start)
            start = b""
        elif len(content) >= _PREFIX_BYTES or content.startswith((b"{", b"[")):
            break
    is_json = content[:1] in (b"{", b"[")
    is_stream = not is_json and (content.startswith(_FIELD_PREFIXES) or reply.content_type == EVENT_STREAM)
    return OpenBody(is_stream, is_json, start, chunks)


async def relay_reply(
    exchange: Exchange, context: RequestContext, reply: Reply, adapter: ProtocolAdapter, *, strip_usage: bool
) -> None:
    """Relay an upstream's reply, streamed or not."""
    context.status = reply.status
    context.outcome = "ok" if reply.status < 400 else "upstream_error"
    upstream_headers = headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
    response_headers = upstream_headers + context.build_response_headers()
    body = await open_body(exchange, reply, response_headers)
    if body.is_stream:
        context.is_streamed = True
        if not exchange.has_started:
            await exchange.start_response(reply.status, mark_unbuffered(response_headers))
        await _relay_stream(exchange, context, body, adapter, strip_usage=strip_usage)
    else:
        parts, size = await body.read_parts()
        if size > MAX_BUFFERED_BYTES:
            await _relay_large_body(exchange, reply.status, response_headers, parts, body.chunks)
            return
        payload = await offload.run_for(size, b"".join, parts)
        message = await offload.run_for(len(payload), json_types.parse_object, payload.removeprefix(_BYTE_ORDER_MARK))
        record_reply_error(context, message)
        context.record_reply(message or {})
        if not context.usage and (received_text := context.count_received_text()) is not None:
            await offload.run_for(len(payload), received_text.feed_whole_reply, payload)
        await send_whole_body(exchange, reply.status, response_headers, payload)


async def _relay_large_body(
    exchange: Exchange, status: int, response_headers: RawHeaders, parts: list[bytes], chunks: AsyncIterator[bytes]
) -> None:
    """Relay a body that is too large to be held. Its usage stays unknown."""
    if not exchange.has_started:
        await exchange.start_response(status, response_headers)
    for part in parts:
        await exchange.write_chunk(part)
        await asyncio.sleep(0)
    async for chunk in chunks:
        await exchange.write_chunk(chunk)
    await exchange.end_response()


def mark_unbuffered(response_headers: RawHeaders) -> RawHeaders:
    """Return the headers of a stream with one that tells nginx, if it stands before the proxy, not to hold it back."""
    if any(name == _BUFFERING_HEADER for name, _ in response_headers):
        return response_headers
    return [*response_headers, (_BUFFERING_HEADER, b"no")]


async def send_whole_body(exchange: Exchange, status: int, response_headers: RawHeaders, body: bytes) -> None:
    """Send a whole response, or its body if blanks have begun it."""
    if exchange.has_started:
        await exchange.end_response(body)
    else:
        await exchange.send_response(status, response_headers, body)


def record_reply_error(context: RequestContext, message: Json | None) -> None:
    """Record an upstream error if a reply reports one, whatever its status, or is not a JSON object."""
    if message is None or api_errors.has_error(message):
        context.outcome = "upstream_error"


async def _relay_stream(
    exchange: Exchange,
    context: RequestContext,
    body: OpenBody,
    adapter: ProtocolAdapter,
    *,
    strip_usage: bool,
) -> None:
    tap, received_text = sse.UsageTap(strip=strip_usage), context.count_received_text()
    try:
        if received_text is not None:
            received_text.feed(body.start)
        await _relay_long_chunk(exchange, tap, body.start)
        async for chunk in body.chunks:
            if received_text is not None:
                received_text.feed(chunk)
            if len(chunk) > sse.PIECE_BYTES or tap.pending_bytes > offload.INLINE_BYTES:
                await _relay_long_chunk(exchange, tap, chunk)
            elif visible := tap.feed(chunk):  # nearly all of them
                await exchange.write_chunk(visible)
        rest = tap.flush()
        context.outcome = "upstream_error" if tap.has_failed else context.outcome
    except ApiError as error:
        context.outcome = "upstream_error"
        rest = tap.discard_partial_event() + adapter.encode_error_event(error)
    finally:
        context.usage, context.reply_facts = tap.usage, tap.facts
    await exchange.end_response(rest)


async def _relay_long_chunk(exchange: Exchange, tap: sse.UsageTap, chunk: bytes) -> None:
    """Relay a chunk, or a part of a long event, so that other requests have their turn meanwhile."""
    async for piece in sse.iter_pieces(chunk):
        if visible := await offload.run_for(tap.pending_bytes, tap.feed, piece):
            await exchange.write_chunk(visible)


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
    except asyncio.CancelledError:  # the proxy stops, and its clients have had their time to finish
        if not (is_passthrough and exchange.has_started):
            await _send_cancellation(exchange, context, adapter)
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


@asynccontextmanager
async def answer_cancellation(exchange: Exchange) -> AsyncGenerator[None]:
    """Answer with a 503 if the proxy's stop cancels the block before a response has started."""
    try:
        yield
    except asyncio.CancelledError:
        if not exchange.has_started:
            error = _build_stop_error()
            headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
            with suppress(TimeoutError):  # the client may not read
                async with asyncio.timeout(_CANCELLATION_SECONDS):
                    await exchange.send_response(error.status, JSON_HEADERS + headers, error.encode())
        raise


def _build_stop_error() -> ApiError:
    message = "the proxy was stopped before the answer was complete; send the request again"
    return ApiError(503, message, code="shutting_down", headers={"retry-after": "1"})


async def _send_cancellation(exchange: Exchange, context: RequestContext, adapter: ProtocolAdapter | None) -> None:
    """Tell a client that its request ends because the proxy stops, as the last event if a stream has started."""
    error = _build_stop_error()
    with suppress(TimeoutError):  # the client may not read
        async with asyncio.timeout(_CANCELLATION_SECONDS):
            if exchange.has_started and context.is_streamed:
                await exchange.write_chunk(b"\n\n")  # an event that was too long to be held back may have begun
            await send_error(exchange, context, error, adapter)


async def send_error(
    exchange: Exchange, context: RequestContext, error: ApiError, adapter: ProtocolAdapter | None
) -> None:
    """Answer with an error, as the last event if a stream has started."""
    context.record_error(error)
    if exchange.has_started:
        if not context.is_streamed and adapter is not None:  # blanks have begun a whole response
            await exchange.end_response(adapter.encode_error(error))
            return
        event = sse.encode_event(error.encode()) if adapter is None else adapter.encode_error_event(error)
        await exchange.end_response(event)
        return
    context.status = error.status
    error_headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    context.overhead_seconds = context.overhead_seconds or perf_counter() - context.start_time
    body = error.encode() if adapter is None else adapter.encode_error(error)
    await exchange.send_response(error.status, JSON_HEADERS + error_headers + context.build_response_headers(), body)
