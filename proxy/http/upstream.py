"""The OpenAI-shaped upstream: one pooled client, raw bytes both ways, every foreign exception mapped here.

Never follows a redirect (a key must not travel on), never sends a request twice (it might be billed twice), and keeps
no cookies (they would pass from one client to another). Authorities that sign the upstream's certificate are those of
the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
"""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache

import aiohttp
from yarl import URL

from ...config.outbound_proxy import ProxyResolver, UnusableProxyError
from ..protocols.api_errors import ApiError, UpstreamError
from .exchange import RawHeaders

_LARGE_BODY_BYTES = 2**20  # bytes; what is larger is written piece by piece, so that it does not hold up the event loop
_MAX_HEADER_BYTES = 2**16  # bytes of a response: it is the client's to say what is too long
_SKIPPED_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class UpstreamReply:
    """An upstream's response: its status and headers, and a body that is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: RawHeaders = list(response.raw_headers)
        self.content_type = response.content_type

    async def read(self) -> bytes:
        """Read the whole body."""
        with _map_errors():
            return await self._response.read()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body piece by piece, as it arrives."""
        with _map_errors():
            async for chunk in self._response.content.iter_any():
                yield chunk


class Upstream:
    """A pool of connections. Built inside a running event loop; `close` it there.

    With `unpack` a response that comes compressed although nobody asked for that is unpacked, so that it can be read.
    Goes through `proxy`, by default through the one that the environment names, if any.
    """

    def __init__(
        self, *, connect_timeout: float, read_timeout: float, decompress: bool, proxy: str | None = None
    ) -> None:
        self._proxies = ProxyResolver(proxy)
        self._proxies_by_origin = dict[URL, URL | None]()  # by origin: there are as many as there are upstreams
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_SKIPPED_AUTO_HEADERS,
            max_field_size=_MAX_HEADER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            auto_decompress=decompress,
        )

    @asynccontextmanager
    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncGenerator[UpstreamReply]:
        """Send a request and yield the reply; leaving the block ends it, read or not.

        Raises:
            ApiError: 502 when the upstream cannot be reached or breaks off, 504 when it is silent for too long.
        """
        data = io.BytesIO(body) if isinstance(body, bytes) and len(body) >= _LARGE_BODY_BYTES else body or None
        with _map_errors():
            to = _parse_url(url)
            request = self._session.request(
                method, to, headers=headers, data=data, allow_redirects=False, proxy=self._find_proxy(to)
            )
            response = await request
        try:
            yield UpstreamReply(response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _find_proxy(self, to: URL) -> URL | None:
        """Return the proxy on the way, if there is one."""
        origin = to.origin()
        if origin not in self._proxies_by_origin:
            found = self._proxies.find_proxy(to.scheme, to.host or "", to.port or 0)
            self._proxies_by_origin[origin] = None if found is None else URL(found)
        return self._proxies_by_origin[origin]


@lru_cache(maxsize=256)
def _parse_url(text: str) -> URL:
    return URL(text, encoded=True)  # a URL works out its parts once, so a known one is cheaper


@contextmanager
def _map_errors() -> Generator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ApiError(504, "the upstream cannot be reached in time", code="upstream_timeout") from error
    except TimeoutError as error:
        raise UpstreamError(504, "the upstream did not answer in time", code="upstream_timeout") from error
    except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, UnusableProxyError) as error:
        raise ApiError(502, _describe_unreachable(error), code="upstream_unreachable") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UpstreamError(
            502, f"the upstream broke off: {type(error).__name__}", code="upstream_disconnected"
        ) from error


def _describe_unreachable(
    error: aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | UnusableProxyError,
) -> str:
    """Say why the upstream was not reached, and if it was not its own fault, whose."""
    match error:
        case UnusableProxyError():
            return f"the upstream cannot be reached through a proxy: {error}"
        case aiohttp.ClientHttpProxyError():  # what it says besides may be anything
            return f"the proxy on the way to the upstream refuses to go there: status {error.status}"
        case aiohttp.ClientConnectorCertificateError():
            found = getattr(error.certificate_error, "verify_message", type(error.certificate_error).__name__)
            return f"the upstream's certificate is not trusted: {found} (SSL_CERT_FILE can name who else may sign)"
        case aiohttp.ClientConnectorError():
            which = (
                "proxy on the way to the upstream"
                if isinstance(error, aiohttp.ClientProxyConnectionError)
                else "upstream"
            )
            return f"the {which} cannot be reached: {error.os_error.strerror or type(error.os_error).__name__}"
