"""The client of the upstream: one connection pool, raw bytes in both directions, errors mapped to API errors.

It follows no redirects (they would send a key to another host) and stores no cookies (they would leak between clients).
It retries only if an idle connection turns out to be closed, since the upstream may bill other attempts. It trusts the
system's certificate authorities, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
"""

import io
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache
from os import urandom
from time import monotonic
from typing import Any

import aiohttp
from yarl import URL

from ...config.outbound_proxy import ProxyResolver, UnusableProxyError
from ..protocols import offload
from ..protocols.api_errors import ApiError, UpstreamError
from .exchange import RawHeaders
from .response_encodings import create_decoders
from .upstream_request import MAX_HEADER_BYTES, RequestSender, ResponseHead

MAX_BUFFERED_BYTES = 2**25  # bytes of an answer that are held to be read; a generated image takes a few million
MAX_STATUS = 599  # HTTP defines no higher status; 101 would switch to a protocol that no client has asked for
_LARGE_BODY_BYTES = 2**20  # larger bodies are sent in chunks, so that they do not block the event loop
_MIN_IDLE_SECONDS = 1.0  # servers close a connection after at least this time without requests
_MAX_STALE_SECONDS = 1.0  # a closed connection is noticed within this time
_DECODED_BY_AIOHTTP = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})
VIA_NAME = f"clara-{urandom(6).hex()}"  # names this process in the header `via`, so that it recognises its own requests
_PLAIN_HTTP_REASONS = frozenset({"HTTP_REQUEST", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"})  # of OpenSSL
_VIA_HEADER = ("via", f"1.1 {VIA_NAME}")
_SKIPPED_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _SessionResponse:
    """A response of aiohttp's session as a `ResponseHead`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: RawHeaders = list(response.raw_headers)
        self.content_type = response.content_type
        self.content_encoding = response.headers.get("content-encoding", "")
        self.content = response.content

    def release(self) -> None:
        """Return the connection to the pool, or close it if the body has not been read."""
        self._response.release() if self.content.at_eof() else self._response.close()


class UpstreamReply:
    """An upstream's response: status, headers and an unread body."""

    def __init__(self, head: ResponseHead | _SessionResponse, *, decompress: bool) -> None:
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

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body in chunks as it arrives."""
        with _MAP_ERRORS:
            async for chunk in self._content.iter_any():
                if decoded := self._decode(chunk):
                    yield decoded

    def _decode(self, chunk: bytes) -> bytes:
        for decode in self._decoders:
            chunk = decode(chunk)
        return chunk


def too_large_error() -> UpstreamError:
    """Return the error for an answer that must be read and is too large to be held."""
    message = f"the upstream's answer is larger than {MAX_BUFFERED_BYTES} bytes"
    return UpstreamError(502, message, code="answer_too_large")


# The start of the previous request on the connection of the current task's request; None on a new connection.
_previous_use: ContextVar[float | None] = ContextVar("previous_use", default=None)
_LAST_USE = "clara_last_use"  # an attribute of a connection's protocol; a weak dictionary would cost more


class _Connector(aiohttp.TCPConnector):
    """aiohttp's connector, which also tells since when a pooled connection may have been idle."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's parameter
    ) -> aiohttp.connector.Connection:
        """Return a connection, and note when it was used before."""
        connection = await super().connect(req, traces, timeout)
        if (protocol := connection.protocol) is not None:
            _previous_use.set(getattr(protocol, _LAST_USE, None))
            setattr(protocol, _LAST_USE, monotonic())
        return connection


class Upstream:
    """A connection pool. Create and close it inside the same running event loop.

    With `decompress`, a response with a content encoding is decoded. Connections go through `proxy`, by default through
    the environment's proxy, if any.
    """

    def __init__(
        self, *, connect_timeout: float, read_timeout: float, decompress: bool, proxy: str | None = None
    ) -> None:
        self._proxies = ProxyResolver(proxy)
        self._decompress = decompress
        self._proxies_by_origin = dict[URL, URL | None]()  # by origin; one entry for each upstream
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_SKIPPED_AUTO_HEADERS,
            max_field_size=MAX_HEADER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            auto_decompress=decompress,
        )
        self._sender = RequestSender(self._session, decompress=decompress)

    @asynccontextmanager
    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncGenerator[UpstreamReply]:
        """Send a request and yield the reply; leaving the block ends the exchange, even with an unread body.

        Raises:
            ApiError: 502 if the upstream cannot be reached or disconnects, 504 if it times out.
        """
        with _MAP_ERRORS:
            target, headers = _parse_url(url), [*headers, _VIA_HEADER]
            proxy = self._find_proxy(target)
            start_time = monotonic()
            try:
                head = await self._request(method, target, headers, body, proxy)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(body, AsyncIterator) or not _was_closed_while_idle(error, start_time):
                    raise
                head = await self._request(method, target, headers, body, proxy)
        try:
            if not 200 <= head.status <= MAX_STATUS:
                raise UpstreamError(502, f"the upstream answered with status {head.status}", code="invalid_status")
            yield UpstreamReply(head, decompress=self._decompress)
        finally:
            head.release()

    async def _request(
        self,
        method: str,
        target: URL,
        headers: Sequence[tuple[str, str]],
        body: bytes | AsyncIterator[bytes] | None,
        proxy: URL | None,
    ) -> ResponseHead | _SessionResponse:
        is_large = isinstance(body, bytes) and len(body) >= _LARGE_BODY_BYTES
        if proxy is None and not is_large and not isinstance(body, AsyncIterator) and target.user is None:
            return await self._sender.send(method, target, headers, body)
        data = io.BytesIO(body) if is_large and isinstance(body, bytes) else body or None
        return _SessionResponse(
            await self._session.request(method, target, headers=headers, data=data, allow_redirects=False, proxy=proxy)
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _find_proxy(self, target: URL) -> URL | None:
        origin = target.origin()
        if origin not in self._proxies_by_origin:
            proxy = self._proxies.find_proxy(target.scheme, target.host or "", target.port or 0)
            self._proxies_by_origin[origin] = None if proxy is None else URL(proxy)
        return self._proxies_by_origin[origin]


def _was_closed_while_idle(error: Exception, start_time: float) -> bool:
    """Return True if the upstream closed a pooled connection about when the proxy sent a request on it.

    Such a request was never read: it fails at once, and the connection had been idle for longer than a second.
    """
    previous_use, now = _previous_use.get(), monotonic()
    return (
        previous_use is not None
        and not isinstance(error, aiohttp.ClientConnectorError)
        and start_time - previous_use > _MIN_IDLE_SECONDS
        and now - start_time < _MAX_STALE_SECONDS
    )


@lru_cache(maxsize=256)
def _parse_url(text: str) -> URL:
    return URL(text, encoded=True)  # a cached URL keeps its parsed parts


class _ErrorMapper:
    """A context manager that maps the errors of aiohttp to API errors. It has no state, so all requests share it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and (mapped := _map_error(error)) is not None:
            raise mapped from error


_MAP_ERRORS = _ErrorMapper()


def _map_error(error: BaseException) -> ApiError | None:
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
