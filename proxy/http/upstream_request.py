"""Sends one request with its whole body on a pooled connection of aiohttp, and reads the head of the response.

`ClientSession.request` takes four times as long for it: it builds the request from parts, and writes the body in a
task. Connections, TLS, timeouts and the parser of responses are aiohttp's.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from .exchange import RawHeaders

MAX_HEADER_BYTES = 2**16  # bytes of one response header; the client may set a lower limit
_BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding"})  # the body is sent as a whole
_READ_BYTES = 2**16


class ResponseHead(NamedTuple):
    """The head of a response, with its body still to be read; `connection` is to be released or closed."""

    status: int
    headers: RawHeaders
    content_type: str
    content_encoding: str
    content: aiohttp.StreamReader
    connection: aiohttp.connector.Connection

    def release(self) -> None:
        """Return the connection to the pool, or close it if the body has not been read."""
        self.connection.release() if self.content.at_eof() else self.connection.close()


class RequestSender:
    """Sends requests through the connector of a session."""

    def __init__(self, session: aiohttp.ClientSession, *, decompress: bool) -> None:
        self._session = session
        self._decompress = decompress
        self._carriers = dict[URL, aiohttp.ClientRequest]()  # of the parameters for the connector, by origin

    async def send(
        self, method: str, target: URL, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> ResponseHead:
        """Send a request.

        Raises:
            aiohttp.ClientError: the upstream cannot be reached, disconnects, or its response is not valid HTTP.
            TimeoutError: it did not answer in time.
            ValueError: a header is invalid.
        """
        head = _build_head(method, target, headers, body)
        carrier = self._get_carrier(target)
        connector, timeout = self._session.connector, self._session.timeout
        assert connector is not None
        try:
            connection = await connector.connect(carrier, [], timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {target.host}") from error
        try:
            protocol = connection.protocol
            if protocol is None or protocol.transport is None or protocol.transport.is_closing():
                raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
            protocol.set_response_params(
                skip_payload=method == "HEAD",
                read_until_eof=True,
                auto_decompress=self._decompress,
                read_timeout=timeout.sock_read,
                read_bufsize=_READ_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
            protocol.transport.write(head + body if body else head)
            protocol.start_timeout()
            return await self._read_head(carrier, connection, protocol)
        except BaseException:
            connection.close()
            raise

    async def _read_head(
        self, carrier: aiohttp.ClientRequest, connection: aiohttp.connector.Connection, protocol: ResponseHandler
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
        return ResponseHead(
            message.code,
            list(message.raw_headers),
            message.headers.get("content-type", "").partition(";")[0].strip().lower(),
            message.headers.get("content-encoding", ""),
            content,
            connection,
        )

    def _get_carrier(self, target: URL) -> aiohttp.ClientRequest:
        """Return a request to the target's origin: the connector reads from it how to connect."""
        origin = target.origin()
        carrier = self._carriers.get(origin)
        if carrier is None:
            loop = asyncio.get_running_loop()
            carrier = self._carriers[origin] = aiohttp.ClientRequest("GET", origin, loop=loop, session=self._session)
        return carrier


def _build_head(method: str, target: URL, headers: Sequence[tuple[str, str]], body: bytes | None) -> bytes:
    """Return the request line and the headers.

    Raises:
        ValueError: a header contains a line end or a NUL.
    """
    lines = [f"{method} {target.raw_path_qs} HTTP/1.1", f"Host: {target.host_port_subcomponent}"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in _OWN_HEADERS]
    if body or method not in _BODILESS_METHODS:
        lines.append(f"Content-Length: {len(body or b'')}")
    text = "\r\n".join(lines)
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header contains a line end")
    return text.encode() + b"\r\n\r\n"
