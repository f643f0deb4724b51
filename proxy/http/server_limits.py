"""Limits of the server on its clients' connections, with a count and a log line for every refusal.

They hold before authentication, so they protect the proxy from clients without a key, too.
"""

import asyncio
import logging
import resource
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from ..stores.errors import ThrottledLogger

MAX_HEADERS = 256  # headers of one request
MAX_HEAD_BYTES = 2**16  # bytes of one request's line and headers, or of its trailers
MAX_CONNECTIONS = 4096  # connections at once, if no limit is set and the system allows as many
UNREAD_SECONDS = 300.0  # a response that the client has not read for so long is aborted
SWEEP_SECONDS = 1.0
_RESERVED_FILES = 48  # descriptors of the stores, of the listener, and of the libraries
_FILES_PER_CONNECTION = 2  # the client's and the upstream's

RefusalReason = Literal["connections", "headers", "head-timeout", "body-timeout", "unread-response", "invalid"]
log = logging.getLogger(__name__)


class LimitedConnection(ABC):
    """A connection that the server ends if its client makes no progress.

    `progress` grows with everything that the client completes: a head, a piece of a body, a request.
    """

    progress = 0

    @property
    @abstractmethod
    def waits_for(self) -> RefusalReason | None:
        """The reason to end this connection unless it makes progress, or None if the client owes nothing."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """True between two requests of the client."""

    @abstractmethod
    def end(self, reason: RefusalReason) -> None:
        """End the connection for this reason."""


class ServerLimits:
    """The limits of one server. `refusals` counts refused requests and connections by reason."""

    def __init__(self, max_connections: int | None = None, client_timeout: float = 30.0) -> None:
        self.max_connections = max_connections or compute_max_connections()
        self.client_timeout = client_timeout
        self.refusals: Counter[str] = Counter()
        self._loggers = dict[str, ThrottledLogger]()
        self._waiting = dict[LimitedConnection, tuple[RefusalReason, int, float]]()

    def record_refusal(self, reason: RefusalReason, client: object) -> None:
        """Count a refusal and log it, at most once a minute for each reason."""
        self.refusals[reason] += 1
        message = {
            "connections": f"connection refused: {self.max_connections} are open already (CLARA_MAX_CONNECTIONS)",
            "headers": f"request refused: more than {MAX_HEADERS} headers, or {MAX_HEAD_BYTES} bytes of them",
            "head-timeout": f"connection closed: no whole request in {self.client_timeout:g} s (CLARA_CLIENT_TIMEOUT)",
            "body-timeout": f"request refused: no more of its body in {self.client_timeout:g} s (CLARA_CLIENT_TIMEOUT)",
            "invalid": "request refused: it is not valid HTTP",
            "unread-response": f"connection closed: its client has read nothing for {UNREAD_SECONDS:g} s",
        }[reason]
        logger = self._loggers.setdefault(reason, ThrottledLogger(log))
        logger.warn(f"{message}; client {client}")

    async def sweep_connections(self, connections: Iterable[object]) -> None:
        """End connections whose clients make no progress for too long. It runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.client_timeout / 4))
            self.sweep_once(connections, loop.time())

    def sweep_once(self, connections: Iterable[object], now: float) -> None:
        """End the connections that have been in the same state since a sweep that is a timeout ago."""
        previous = self._waiting
        self._waiting = dict[LimitedConnection, tuple[RefusalReason, int, float]]()
        for connection in list(connections):
            if not isinstance(connection, LimitedConnection) or (reason := connection.waits_for) is None:
                continue
            since = now
            if (state := previous.get(connection)) is not None and state[:2] == (reason, connection.progress):
                since = state[2]
            if now - since >= (UNREAD_SECONDS if reason == "unread-response" else self.client_timeout):
                connection.end(reason)
            else:
                self._waiting[connection] = reason, connection.progress, since


def compute_max_connections() -> int:
    """Return how many connections the limit of open files allows."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(4, min(MAX_CONNECTIONS, (limit - _RESERVED_FILES) // _FILES_PER_CONNECTION))
