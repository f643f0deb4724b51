"""One HTTP request and its response, on bare ASGI: the hot path has no framework between it and the server.

Headers keep their order and number; bodies are bytes both ways.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from typing import Any

import zstandard

from ..protocols.api_errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

JSON_HEADERS: RawHeaders = [(b"content-type", b"application/json")]
EVENT_STREAM_HEADERS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
DISCONNECT_GRACE_SECONDS = 0.05  # seconds


def _decode_header(value: bytes) -> str:
    """Read a header's value as clients write it nowadays, or else as HTTP once had it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Exchange:
    """A request that came in, and the one response that goes out."""

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
        """Return the request's headers as they came."""
        return list(self.scope["headers"])

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """Return the request's headers by lower-case name; of a repeated one the last."""
        return {name.decode("latin-1"): _decode_header(value) for name, value in self.scope["headers"]}

    async def stream_body(self) -> AsyncGenerator[bytes]:
        """Yield the request body as it comes.

        Raises:
            ClientGone: the client went away before it was complete.
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

    async def read_body(self, limit: int) -> bytes:
        """Read the whole request body as it came, at most `limit` bytes.

        Raises:
            ApiError: 413 when it is larger.
            ClientGone: the client went away before it was complete.
        """
        pieces: list[bytes] = []
        held = 0
        async for piece in self.stream_body():
            pieces.append(piece)
            held += len(piece)
            if held > limit:
                raise _too_large_error(limit)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def start_response(self, status: int, headers: RawHeaders) -> None:
        """Send the status and the headers."""
        self.has_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write_chunk(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end_response(self, chunk: bytes = b"") -> None:
        """Send the last piece of the body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def send_response(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """Send a whole response."""
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]  # HTTP forbids one there
        await self.start_response(status, [*headers, *length])
        await self.end_response(body)

    async def wait_for_disconnect(self) -> None:
        """Return when the client has gone away after its request; to be raced against the work done for it."""
        await self._body_complete.wait()  # until then, whoever reads the body learns of it
        while (await self._receive())["type"] != "http.disconnect":
            pass


class ClientDisconnected(Exception):  # noqa: N818 - not an error: it happens every day
    """The client closed the connection before it had its answer."""


class CancelOnDisconnect:
    """Cancels what is done inside it when the client goes away, and raises ClientGone then.

    Watching costs a task, so it begins only when the answer has not come within `GRACE` seconds.
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

    def _cancel_task(self, watching: asyncio.Task[None]) -> None:
        if self._task is not None and not watching.cancelled():
            self._is_disconnected = True
            self._task.cancel()


def decode_body(body: bytes, encoding: str, limit: int) -> bytes | None:
    """Undo the content encoding of a request body; None when it is one that nobody here knows.

    Raises:
        ApiError: 400 for a body that is not what its encoding says, 413 for one that unpacks beyond `limit` bytes.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    try:
        if encoding in ("gzip", "x-gzip", "deflate"):
            unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
            unpacked = unpacker.decompress(body, limit + 1)
            if not unpacker.eof and len(unpacked) <= limit:
                raise zlib.error("it ends too early")
        elif encoding == "zstd":
            unpacked = zstandard.ZstdDecompressor().stream_reader(body).read(limit + 1)
            if len(unpacked) <= limit and not _is_complete_zstd(body):
                raise zstandard.ZstdError("it ends too early")
        else:
            return None
    except (zlib.error, zstandard.ZstdError) as error:
        raise ApiError(400, f"the request body is not valid {encoding}: {error}", code="invalid_encoding") from None
    if len(unpacked) > limit:
        raise _too_large_error(limit)
    return unpacked


def _is_complete_zstd(body: bytes) -> bool:
    """Say whether a body ends where its encoding does, which the bounded reader does not tell."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    unpacker.decompress(body)
    return unpacker.eof


def _too_large_error(limit: int) -> ApiError:
    return ApiError(413, f"the request body is larger than {limit} bytes", code="request_too_large")
