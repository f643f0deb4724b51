"""The OpenAI-shaped upstream: one pooled client, raw bytes both ways, every foreign exception mapped here.

Never follows a redirect (a key must not travel on), never sends a request twice (it might be billed twice), and keeps
no cookies (they would pass from one client to another).
"""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache

import aiohttp
from yarl import URL

from .exchange import RawHeaders
from .wires.errors import ApiError, UpstreamError

_LARGE = 2**20  # bytes; what is larger is written piece by piece, so that it does not hold up the event loop
_LONGEST_HEADER = 2**16  # bytes of a response: it is the client's to say what is too long
_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Reply:
    """An upstream's response: its status and headers, and a body that is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: RawHeaders = list(response.raw_headers)
        self.content_type = response.content_type

    async def read(self) -> bytes:
        """Read the whole body."""
        with _mapped():
            return await self._response.read()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body piece by piece, as it arrives."""
        with _mapped():
            async for chunk in self._response.content.iter_any():
                yield chunk


class Upstream:
    """A pool of connections. Built inside a running event loop; `close` it there.

    With `unpack` a response that comes compressed although nobody asked for that is unpacked, so that it can be read.
    """

    def __init__(self, *, connect_timeout: float, read_timeout: float, unpack: bool) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OWN_HEADERS,
            max_field_size=_LONGEST_HEADER,
            max_line_size=_LONGEST_HEADER,
            auto_decompress=unpack,
        )

    @asynccontextmanager
    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncGenerator[Reply]:
        """Send a request and yield the reply; leaving the block ends it, read or not.

        Raises:
            ApiError: 502 when the upstream cannot be reached or breaks off, 504 when it is silent for too long.
        """
        data = io.BytesIO(body) if isinstance(body, bytes) and len(body) >= _LARGE else body or None
        with _mapped():
            request = self._session.request(method, _url(url), headers=headers, data=data, allow_redirects=False)
            response = await request
        try:
            yield Reply(response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


@lru_cache(maxsize=256)
def _url(text: str) -> URL:
    return URL(text, encoded=True)  # a URL works out its parts once, so a known one is cheaper


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ApiError(504, "the upstream cannot be reached in time", code="upstream_timeout") from error
    except TimeoutError as error:
        raise UpstreamError(504, "the upstream did not answer in time", code="upstream_timeout") from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or type(error.os_error).__name__
        raise ApiError(502, f"the upstream cannot be reached: {reason}", code="upstream_unreachable") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UpstreamError(
            502, f"the upstream broke off: {type(error).__name__}", code="upstream_disconnected"
        ) from error
