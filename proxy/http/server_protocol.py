"""The HTTP parser of the server: uvicorn's fast one, or its pure Python one for the two cases that need it.

The fast parser sends a stream in chunks even to a client of HTTP/1.0, which does not know this encoding: the sizes of
the chunks would become part of the body. It also loses the body of a request that offers HTTP/2 (`upgrade: h2c`), as
the first request of Java's HttpClient does.

Both refuse what exceeds `ServerLimits`: the fast parser itself would buffer a header of any size, and serve any number
of silent connections.
"""

import asyncio
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..protocols.api_errors import ApiError
from .exchange import JSON_HEADERS, Exchange, Receive, Scope, Send
from .server_limits import MAX_HEAD_BYTES, MAX_HEADERS, LimitedConnection, RefusalReason, ServerLimits

_MAX_SEARCHED_BYTES = 16_384  # bytes of the first request that are searched
_PLAIN_PIECE_BYTES = 8192
_STATUS_LINES = {
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\n",
}
_REFUSALS: dict[RefusalReason, ApiError] = {
    "connections": ApiError(503, "too many connections are open; try again later", code="too_many_connections"),
    "headers": ApiError(431, "the request's headers are too large or too many", code="headers_too_large"),
    "body-timeout": ApiError(408, "the request's body did not arrive in time", code="request_timeout"),
}


class _LimitedProtocol(LimitedConnection):
    """The common part of both parsers. uvicorn's protocols have the attributes and know nothing of the limits."""

    limits: ServerLimits
    transport: asyncio.Transport
    connections: set[Any]
    client: Any
    cycle: Any
    flow: Any
    timeout_keep_alive_task: asyncio.TimerHandle | None
    is_refused = False

    @property
    def waits_for(self) -> RefusalReason | None:
        """The reason to end this connection unless it makes progress, or None if the client owes nothing."""
        cycle = self.cycle
        if self.transport.is_closing():
            return None
        if cycle is None or cycle.response_complete:
            return None if self.is_idle else "head-timeout"
        if self.flow.write_paused:
            return "unread-response"
        return "body-timeout" if cycle.more_body and not self.flow.read_paused else None

    @property
    def is_idle(self) -> bool:
        """True between two requests of the client, while uvicorn's own timer runs."""
        return self.timeout_keep_alive_task is not None and not self.transport.is_closing()

    def end(self, reason: RefusalReason) -> None:
        """End the connection, with an error if the client has sent a request and seen no response."""
        self.is_refused = True
        self.limits.record_refusal(reason, self.client)
        error = _REFUSALS.get(reason)
        if error is None or (self.cycle is not None and self.cycle.response_started and reason != "headers"):
            self.transport.abort()
            return
        body = error.encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(_STATUS_LINES[error.status] + head + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not valid HTTP."""
        self.is_refused = True
        self.limits.record_refusal("invalid", self.client)
        super().send_400_response(msg)  # type: ignore[misc] # uvicorn's, of the other base

    def admit(self) -> None:
        """Refuse this new connection if too many are open and none of them is idle; an idle one is closed."""
        if len(self.connections) <= self.limits.max_connections:
            return
        for other in self.connections:
            if isinstance(other, LimitedConnection) and other.is_idle:
                cast("Any", other).transport.close()
                return
        self.end("connections")


class PlainProtocol(_LimitedProtocol, H11Protocol):
    """uvicorn's pure Python parser. It limits an incomplete head itself, so data is fed in small pieces."""

    def __init__(self, *arguments: Any, limits: ServerLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.limits = limits
        self._serve_admitted: Any = self.app
        self.app = cast("Any", self._serve_request)

    def data_received(self, data: bytes) -> None:
        """Read data of the client."""
        for start in range(0, len(data), _PLAIN_PIECE_BYTES):
            if self.is_refused or self.transport.is_closing():
                return
            if self.cycle is not None and self.cycle.more_body:
                self.progress += 1
            super().data_received(data[start : start + _PLAIN_PIECE_BYTES])

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(scope["headers"]) <= MAX_HEADERS:
            await self._serve_admitted(scope, receive, send)
            return
        self.limits.record_refusal("headers", self.client)
        error = _REFUSALS["headers"]
        await Exchange(scope, receive, send).send_response(error.status, JSON_HEADERS, error.encode())


class ServerProtocol(_LimitedProtocol, HttpToolsProtocol):
    """Serves one connection by the parser that its first request needs."""

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        limits: ServerLimits | None = None,
        **options: Any,
    ) -> None:
        super().__init__(config, server_state, app_state, **options)
        self.limits = limits or ServerLimits()
        self._create_other = partial(PlainProtocol, config, server_state, app_state, limits=self.limits, **options)
        self._has_data = False
        self._unparsed_bytes = 0  # received since the client last completed something

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it."""
        super().connection_made(transport)
        self.admit()

    def data_received(self, data: bytes) -> None:
        """Read data of the client; the first request decides which parser serves the connection."""
        if self.is_refused:
            return
        if not self._has_data:
            self._has_data = True
            if _needs_other_parser(data[:_MAX_SEARCHED_BYTES].partition(b"\r\n\r\n")[0]):
                self._serve_by_other_parser(data)
                return
        if len(data) <= MAX_HEAD_BYTES:
            self._feed(data)
            return
        for start in range(0, len(data), MAX_HEAD_BYTES):
            self._feed(data[start : start + MAX_HEAD_BYTES])

    def on_headers_complete(self) -> None:
        """Start a request, unless it has too many headers."""
        self._unparsed_bytes = 0
        self.progress += 1
        if len(self.headers) > MAX_HEADERS:
            self.end("headers")
        if not self.is_refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Add a piece of a request's body."""
        self._unparsed_bytes = 0
        self.progress += 1
        if not self.is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Complete a request."""
        self._unparsed_bytes = 0
        self.progress += 1
        if not self.is_refused:
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parse some data, unless what the client has not completed becomes too large, as an endless header does."""
        if self.is_refused or self.transport.is_closing():
            return
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self.is_refused:
            self.end("headers")

    def _serve_by_other_parser(self, data: bytes) -> None:
        transport: asyncio.Transport = self.transport
        self.connections.discard(self)
        protocol = self._create_other()
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        protocol.data_received(data)


def _needs_other_parser(head: bytes) -> bool:
    """Return True for a request of HTTP/1.0, or one that offers another protocol than WebSocket."""
    if head.partition(b"\r\n")[0].endswith(b" HTTP/1.0"):
        return True
    _, found, rest = head.lower().partition(b"\r\nupgrade:")
    return bool(found) and not rest.lstrip().startswith(b"websocket")
