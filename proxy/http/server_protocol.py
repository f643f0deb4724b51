"""The HTTP parser of the server: uvicorn's fast one, or its pure Python one for the two cases that need it.

The fast parser sends a stream in chunks even to a client of HTTP/1.0, which does not know this encoding: the sizes of
the chunks would become part of the body. It also loses the body of a request that offers HTTP/2 (`upgrade: h2c`), as
the first request of Java's HttpClient does.
"""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD = 16_384  # bytes of the first request that are searched


class ServerProtocol(HttpToolsProtocol):
    """Serves one connection by the parser that its first request needs."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], **options: Any) -> None:
        super().__init__(config, server_state, app_state, **options)
        self._create_other = partial(H11Protocol, config, server_state, app_state, **options)
        self._has_data = False

    def data_received(self, data: bytes) -> None:
        """Read data of the client; the first request decides which parser serves the connection."""
        if not self._has_data:
            self._has_data = True
            if _needs_other_parser(data[:_MAX_HEAD].partition(b"\r\n\r\n")[0]):
                self._serve_by_other_parser(data)
                return
        super().data_received(data)

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
