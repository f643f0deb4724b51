"""The client of the upstream: one connection pool, raw bytes in both directions, errors mapped to API errors.

It follows no redirects (they would send a key to another host) and stores no cookies (they would leak between clients).
It retries only if an idle connection turns out to be closed, since the upstream may bill other attempts. It trusts the
system's certificate authorities, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from os import urandom
from typing import Self

import aiohttp

from ...config.outbound_proxy import ProxyResolver, UnusableProxyError
from ..protocols import offload
from ..protocols.api_errors import ApiError, UpstreamError
from .exchange import RawHeaders
from .response_encodings import create_decoders
from .upstream_request import Body, HeaderFields, RequestSender, ResponseHead

MAX_BUFFERED_BYTES = 2**25  # bytes of an answer that are held to be read; a generated image takes a few million
MAX_STATUS = 599  # HTTP defines no higher status; 101 would switch to a protocol that no client has asked for
_DECODED_BY_AIOHTTP = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})
VIA_NAME = f"clara-{urandom(6).hex()}"  # names this process in the header `via`, so that it recognises its own requests
_PLAIN_HTTP_REASONS = frozenset({"HTTP_REQUEST", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"})  # of OpenSSL
_VIA_HEADER = ("via", f"1.1 {VIA_NAME}")


class UpstreamReply:
    """An upstream's response: status, headers and an unread body."""

    def __init__(self, head: ResponseHead, *, decompress: bool) -> None:
        encodings = head.content_encoding if decompress else ""
        self._decoders = create_decoders(encodings) if encodings.lower() not in _DECODED_BY_AIOHTTP else []
        self._content = head.content
        self.status = head.status
        self.headers: RawHeaders = head.headers
        self.content_type = head.content_type

    async def read(self) -> bytes:
        """Read the whole body.

        Raises:
            UpstreamError: 502 for more than `MAX_BUFFERED_BYTES`.
        """
        parts, size = list[bytes](), 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BUFFERED_BYTES:
                raise too_large_error()
        return await offload.run_for(size, b"".join, parts)

    def chunks(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body in chunks as it arrives."""
        return self

    def __aiter__(self) -> Self:
        """Iterate over the body. A generator would cost several times as much for a short one."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk that is not empty."""
        while True:
            try:
                data = chunk = await self._content.readany()
                for decode in self._decoders if data else ():
                    chunk = decode(chunk)
            except Exception as error:
                _raise_mapped(error)
                raise
            if chunk:
                return chunk
            if not data:
                raise StopAsyncIteration


class UpstreamCall:
    """One request to the upstream, sent when its block is entered. The block gets the reply."""

    def __init__(self, send: Callable[[], Awaitable[ResponseHead]], *, decompress: bool) -> None:
        self._send, self._decompress = send, decompress
        self._head: ResponseHead | None = None

    async def __aenter__(self) -> UpstreamReply:
        """Send the request and return the reply."""
        try:
            self._head = head = await self._send()
        except Exception as error:
            _raise_mapped(error)
            raise
        if not 200 <= head.status <= MAX_STATUS:
            head.release()
            raise UpstreamError(502, f"the upstream answered with status {head.status}", code="invalid_status")
        return UpstreamReply(head, decompress=self._decompress)

    async def __aexit__(self, *_: object) -> None:
        """End the exchange, even with an unread body."""
        if self._head is not None:
            self._head.release()


def too_large_error() -> UpstreamError:
    """Return the error for an answer that must be read and is too large to be held."""
    message = f"the upstream's answer is larger than {MAX_BUFFERED_BYTES} bytes"
    return UpstreamError(502, message, code="answer_too_large")


class Upstream:
    """A connection pool. Create and close it inside the same running event loop.

    With `decompress`, a response with a content encoding is decoded. Connections go through `proxy`, by default through
    the environment's proxy, if any.
    """

    def __init__(
        self, *, connect_timeout: float, read_timeout: float, decompress: bool, proxy: str | None = None
    ) -> None:
        self._decompress = decompress
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._sender = RequestSender(
            self._session, ProxyResolver(proxy), own_headers=[_VIA_HEADER], decompress=decompress
        )

    def send(self, method: str, url: str, headers: HeaderFields, body: Body) -> UpstreamCall:
        """Return a context manager that sends a request and yields the reply.

        Raises on entry:
            ApiError: 502 if the upstream cannot be reached or disconnects, 504 if it times out.
        """
        return UpstreamCall(partial(self._sender.send, method, url, headers, body), decompress=self._decompress)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _raise_mapped(error: Exception) -> None:
    """Raise the API error for an error of aiohttp; return for any other error."""
    if (mapped := _map_error(error)) is not None:
        raise mapped from error


def _map_error(error: Exception) -> ApiError | None:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ApiError(504, "the connection to the upstream timed out", code="upstream_timeout")
        case TimeoutError():
            return UpstreamError(504, "the upstream did not answer in time", code="upstream_timeout")
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError() | UnusableProxyError():
            return ApiError(502, _describe_unreachable(error), code="upstream_unreachable")
        case aiohttp.ClientError() | OSError() | ValueError():
            message = f"the upstream disconnected: {type(error).__name__}"
            return UpstreamError(502, message, code="upstream_disconnected")
        case _:
            return None


def _describe_unreachable(
    error: aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | UnusableProxyError,
) -> str:
    """Return the reason why the upstream was not reached, and name the proxy if it is the cause."""
    match error:
        case UnusableProxyError():
            return f"cannot reach the upstream through the proxy: {error}"
        case aiohttp.ClientHttpProxyError():  # its own message may contain anything
            return f"the proxy refused to connect to the upstream: status {error.status}"
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", type(error.certificate_error).__name__)
            return f"the upstream's certificate is not trusted: {reason} (set SSL_CERT_FILE to add an authority)"
        case aiohttp.ClientConnectorError():
            host = "proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else "upstream"
            if isinstance(error.os_error, ssl.SSLError) and error.os_error.reason in _PLAIN_HTTP_REASONS:
                return f"the {host} does not speak TLS on this port; its address may need http:// instead of https://"
            return f"cannot connect to the {host}: {error.os_error.strerror or type(error.os_error).__name__}"
