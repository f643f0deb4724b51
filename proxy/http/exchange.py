"""One HTTP request and its response, on bare ASGI, so that the hot path needs no framework.

Headers keep their order and number; bodies are bytes in both directions.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from typing import Any, TypeVar

from .body_budget import BodyReservation
from .content_encoding import too_large_error

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Wrapper = TypeVar("Wrapper", bound=Send)
RawHeaders = list[tuple[bytes, bytes]]

JSON_HEADERS: RawHeaders = [(b"content-type", b"application/json")]
EVENT_STREAM_HEADERS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
PIECE_BYTES = 2**18  # of a long response, sent at once
DISCONNECT_GRACE_SECONDS = 0.05  # a request that takes longer is watched for a disconnect


def decode_header(value: bytes) -> str:
    """Decode a header's value as UTF-8, or as Latin-1 if it is not valid UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Exchange:
    """An incoming request and the response to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._body_complete = asyncio.Event()
        self.has_started = False
        self.is_disconnected = False

    @property
    def method(self) -> str:
        """Return the request's method."""
        return str(self.scope["method"])

    @property
    def raw_headers(self) -> RawHeaders:
        """Return the request's headers in their order, with repetitions."""
        return list(self.scope["headers"])

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """Return the request's headers by lower-case name; the last value of a repeated header."""
        return {name.decode("latin-1"): decode_header(value) for name, value in self.scope["headers"]}

    async def stream_body(self) -> AsyncGenerator[bytes]:
        """Yield the request body as it arrives.

        Raises:
            ClientDisconnected: the client disconnected before the body was complete.
        """
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_disconnected = True
                raise ClientDisconnected
            yield message.get("body", b"")
            more = message.get("more_body", False)
        self._body_complete.set()

    async def read_body(self, limit: int, reservation: BodyReservation | None = None) -> bytes:
        """Read the whole request body of at most `limit` bytes, with its content encoding.

        Raises:
            ApiError: 413 for a larger body, 503 if other bodies take the memory.
            ClientDisconnected: the client disconnected before the body was complete.
        """
        return await join_chunks(self.stream_body(), limit, reservation)

    def wrap_send(self, wrap: Callable[[Send], Wrapper]) -> Wrapper:
        """Send the response through the function that `wrap` returns for the present one, and return it."""
        wrapper = wrap(self._send)
        self._send = wrapper
        return wrapper

    async def start_response(self, status: int, headers: RawHeaders) -> None:
        """Send the status and the headers."""
        self.has_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write_chunk(self, chunk: bytes) -> None:
        """Send a chunk of the body; wait while the client is slow. Other requests run between pieces of a long one."""
        if len(chunk) <= PIECE_BYTES:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            return
        for start in range(0, len(chunk), PIECE_BYTES):
            await self.write_chunk(chunk[start : start + PIECE_BYTES])
            await asyncio.sleep(0)

    async def end_response(self, chunk: bytes = b"") -> None:
        """Send the last chunk of the body."""
        if len(chunk) > PIECE_BYTES:
            await self.write_chunk(chunk)
            chunk = b""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def send_response(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """Send a whole response."""
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]  # HTTP forbids the header there
        await self.start_response(status, [*headers, *length])
        await self.end_response(body)

    def mark_body_complete(self) -> None:
        """Note that another reader has read the whole body."""
        self._body_complete.set()

    async def wait_for_disconnect(self) -> None:
        """Wait until the client disconnects after its request."""
        await self._body_complete.wait()  # `stream_body` raises before that
        while (await self._receive())["type"] != "http.disconnect":
            pass


class ClientDisconnected(Exception):  # noqa: N818 - not an error
    """The client closed the connection before the response was complete."""


class CancelOnDisconnect:
    """Cancels the block inside it when the client disconnects, and raises `ClientDisconnected` then.

    Watching costs a task, so it begins only after `DISCONNECT_GRACE_SECONDS`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._watcher: asyncio.Task[None] | None = None
        self._is_disconnected = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(DISCONNECT_GRACE_SECONDS, self._start_watcher)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.remove_done_callback(self._cancel_task)
            self._watcher.cancel()
        if (
            isinstance(error, asyncio.CancelledError)
            and self._is_disconnected
            and self._task
            and self._task.uncancel() == 0
        ):
            raise ClientDisconnected from None

    def _start_watcher(self) -> None:
        self._watcher = asyncio.ensure_future(self._exchange.wait_for_disconnect())
        self._watcher.add_done_callback(self._cancel_task)

    def _cancel_task(self, watcher: asyncio.Task[None]) -> None:
        if self._task is not None and not watcher.cancelled():
            self._is_disconnected = True
            self._task.cancel()


async def join_chunks(chunks: AsyncIterator[bytes], limit: int, reservation: BodyReservation | None = None) -> bytes:
    """Return all chunks of a request body joined.

    Raises:
        ApiError: 413 for more than `limit` bytes, 503 if other bodies take the memory.
    """
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise too_large_error(limit)
        if reservation is not None:
            reservation.grow_to(size)
    return parts[0] if len(parts) == 1 else b"".join(parts)
