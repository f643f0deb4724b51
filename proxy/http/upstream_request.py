"""Sends requests on pooled connections of aiohttp, and reads the heads of the responses.

`ClientSession.request` takes four times as long: it builds each request from parts, and writes the body in a task.
Connections, TLS, proxies, timeouts and the parser of responses are aiohttp's.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from time import monotonic
from typing import NamedTuple

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from ...config.outbound_proxy import ProxyResolver
from .exchange import RawHeaders

MAX_HEADER_BYTES = 2**16  # bytes of one response header; the client may set a lower limit
_BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding"})
_INLINE_BODY_BYTES = 2**20  # larger bodies are written in pieces, so that they do not block the event loop
_PIECE_BYTES = _READ_BYTES = 2**16
_KNOWN_ROUTES = 256
_MIN_IDLE_SECONDS = 1.0  # servers close a connection after at least this time without requests
_MAX_STALE_SECONDS = 1.0  # a closed connection is noticed within this time
_LAST_USE = "clara_last_use"  # an attribute of a connection's protocol; a weak dictionary would cost more

_CHUNKED_END = b"Transfer-Encoding: chunked\r\n\r\n"
HeaderFields = Sequence[tuple[str, str]]
Body = bytes | AsyncIterator[bytes] | None


class ResponseHead(NamedTuple):
    """The head of a response, with its body still to be read.

    `connection` is to be released. `writing` is the task that writes a large body.
    """

    status: int
    headers: RawHeaders
    content_type: str
    content_encoding: str
    content: aiohttp.StreamReader
    connection: aiohttp.connector.Connection
    writing: asyncio.Task[None] | None

    def release(self) -> None:
        """Return the connection to the pool, or close it if a body has not been written or read to its end."""
        if self.writing is not None and not self.writing.done():
            self.writing.cancel()
            self.connection.close()
            return
        self.connection.release() if self.content.at_eof() else self.connection.close()


class _Route(NamedTuple):
    """How requests with one method are sent to one URL.

    The connector reads from `carrier` how to connect. `start` is the request line with the Host header. `is_forwarded`
    is True if a proxy reads the request. `authorization` comes from the URL.
    """

    carrier: aiohttp.ClientRequest
    method: str
    start: bytes
    is_forwarded: bool
    authorization: str


class RequestSender:
    """Sends requests through the connector of a session. Each gets `own_headers`, too."""

    def __init__(
        self, session: aiohttp.ClientSession, proxies: ProxyResolver, *, own_headers: HeaderFields, decompress: bool
    ) -> None:
        assert session.connector is not None
        self._session, self._connector, self._timeout = session, session.connector, session.timeout
        self._proxies = proxies
        self._own_fields = encode_fields(tuple(own_headers))
        self._decompress = decompress
        self._find_route = lru_cache(_KNOWN_ROUTES)(self._create_route)

    async def send(self, method: str, url: str, headers: HeaderFields, body: Body) -> ResponseHead:
        """Send a request, and once more if the upstream has closed the idle connection.

        Raises:
            aiohttp.ClientError: the upstream cannot be reached, disconnects, or its response is not valid HTTP.
            TimeoutError: it did not answer in time.
            ValueError: the URL, the proxy's address or a header is invalid.
        """
        route = self._find_route(method, url)
        is_whole = body is None or isinstance(body, bytes)
        head = self._build_head(route, tuple(headers), body)
        connection = await self._connect(route.carrier)
        previous_use, start_time = getattr(connection.protocol, _LAST_USE, None), monotonic()
        try:
            return await self._exchange(connection, route, head, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not is_whole or not _was_closed_while_idle(previous_use, start_time):
                raise
        return await self._exchange(await self._connect(route.carrier), route, head, body)

    async def _connect(self, carrier: aiohttp.ClientRequest) -> aiohttp.connector.Connection:
        try:
            return await self._connector.connect(carrier, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {carrier.host}") from error

    async def _exchange(
        self, connection: aiohttp.connector.Connection, route: _Route, head: bytes, body: Body
    ) -> ResponseHead:
        """Write a request, and read the head of its response."""
        writing: asyncio.Task[None] | None = None
        try:
            protocol = connection.protocol
            if protocol is None or protocol.transport is None or protocol.transport.is_closing():
                raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
            setattr(protocol, _LAST_USE, monotonic())
            protocol.set_response_params(
                skip_payload=route.method == "HEAD",
                read_until_eof=True,
                auto_decompress=self._decompress,
                read_timeout=self._timeout.sock_read,
                read_bufsize=_READ_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
            is_chunked = head.endswith(_CHUNKED_END)
            if route.is_forwarded and (authorization := route.carrier.headers.get(hdrs.PROXY_AUTHORIZATION)):
                head = head[:-2] + encode_fields(((hdrs.PROXY_AUTHORIZATION, authorization),)) + b"\r\n"
            if body is None or (isinstance(body, bytes) and len(body) < _INLINE_BODY_BYTES):
                protocol.transport.write(head + body if body else head)
                protocol.start_timeout()
            else:
                protocol.transport.write(head)
                writing = asyncio.create_task(_write_body(protocol, body, is_chunked=is_chunked))
            return await _read_head(route.carrier, connection, protocol, writing)
        except BaseException:
            if writing is not None:
                writing.cancel()
            connection.close()
            raise

    def _create_route(self, method: str, url: str) -> _Route:
        target = URL(url, encoded=True)
        origin = target.origin()
        proxy = self._proxies.find_proxy(target.scheme, target.host or "", target.port or 0)
        carrier = aiohttp.ClientRequest(
            "GET",
            origin,
            loop=asyncio.get_running_loop(),
            session=self._session,
            proxy=None if proxy is None else URL(proxy),
        )
        is_forwarded = proxy is not None and not carrier.is_ssl()
        path = f"{origin}{target.raw_path_qs}" if is_forwarded else target.raw_path_qs
        start = f"{method} {path} HTTP/1.1\r\nHost: {target.host_port_subcomponent}\r\n"
        authorization = ""
        if target.user is not None:
            pair = f"{target.user}:{target.password or ''}"
            authorization = f"Basic {b64encode(pair.encode()).decode()}"
        return _Route(carrier, method, _encode_lines(start, 2), is_forwarded, authorization)

    def _build_head(self, route: _Route, headers: tuple[tuple[str, str], ...], body: Body) -> bytes:
        """Return the request line and the headers."""
        if route.authorization and all(name.lower() != "authorization" for name, _ in headers):
            headers = (*headers, ("Authorization", route.authorization))
        end = b"\r\n"
        if not (body is None or isinstance(body, bytes)):
            length = next((value for name, value in headers if name.lower() == "content-length"), None)
            end = _CHUNKED_END if length is None else _encode_lines(f"Content-Length: {length}\r\n", 1) + b"\r\n"
        elif body or route.method not in _BODILESS_METHODS:
            end = b"Content-Length: %d\r\n\r\n" % len(body or b"")
        return b"".join((route.start, encode_fields(headers), self._own_fields, end))


async def _read_head(
    carrier: aiohttp.ClientRequest,
    connection: aiohttp.connector.Connection,
    protocol: ResponseHandler,
    writing: asyncio.Task[None] | None,
) -> ResponseHead:
    """Read the head of the final response; interim ones are dropped."""
    while True:
        try:
            message, content = await protocol.read()
        except HttpProcessingError as error:
            raise aiohttp.ClientResponseError(
                carrier.request_info, (), status=error.code, message=error.message
            ) from error
        if not 100 <= message.code < 200 or message.code == 101:
            break
    headers = message.headers
    return ResponseHead(
        message.code,
        list(message.raw_headers),
        headers.get("content-type", "").partition(";")[0].strip().lower(),
        headers.get("content-encoding", ""),
        content,
        connection,
        writing,
    )


async def _write_body(protocol: ResponseHandler, body: bytes | AsyncIterator[bytes], *, is_chunked: bool) -> None:
    """Write a body piece by piece; what reads the response gets the error if that fails."""
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    if is_chunked:
        writer.enable_chunking()
    try:
        if isinstance(body, bytes):
            view = memoryview(body)
            for start in range(0, len(body), _PIECE_BYTES):
                await writer.write(view[start : start + _PIECE_BYTES])
        else:
            async for chunk in body:
                await writer.write(chunk)
        await writer.write_eof()
    except Exception as error:  # noqa: BLE001 - the body may be the client's, which may disconnect
        failure: Exception = aiohttp.ClientConnectionError("cannot write the body")
        if isinstance(error, OSError):
            failure = aiohttp.ClientOSError(error.errno, "cannot write the body")
        protocol.set_exception(failure, error)
    else:
        protocol.start_timeout()


@lru_cache(256)
def encode_fields(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return the lines of these headers, without those that the sender sets itself. Clients repeat theirs.

    Raises:
        ValueError: a header contains a line end or a NUL.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers if name.lower() not in _OWN_HEADERS]
    return _encode_lines("".join(lines), len(lines))


def _encode_lines(text: str, count: int) -> bytes:
    if text.count("\r") != count or text.count("\n") != count or "\0" in text:
        raise ValueError("a header contains a line end")
    return text.encode()


def _was_closed_while_idle(previous_use: float | None, start_time: float) -> bool:
    """Return True if the upstream closed a pooled connection about when the proxy sent a request on it.

    Such a request was never read: it fails at once, and the connection had been idle for longer than a second.
    `previous_use` is the start of the previous request on the connection; None on a new connection.
    """
    return (
        previous_use is not None
        and start_time - previous_use > _MIN_IDLE_SECONDS
        and monotonic() - start_time < _MAX_STALE_SECONDS
    )
