"""The clients of attacks: raw connections, whole requests, and probes of honest small requests."""

import http.client
import socket
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson

from .target import Target

CHAT = "/v1/chat/completions"
TIMEOUT = 60.0  # seconds
SMALL_CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}


class Answer(NamedTuple):
    """A response: its status, headers by lower-case name, and body. The status is 0 if the connection broke off."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(
    target: Target, body: bytes | dict[str, Any], path: str = CHAT, *, method: str = "POST", **headers: str
) -> Answer:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=TIMEOUT)
    plain = body if isinstance(body, bytes) else orjson.dumps(body)
    fields = {"content-type": "application/json", "authorization": "Bearer sk-attack"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, plain if method == "POST" else None, fields)
        with connection.getresponse() as response:
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    except (OSError, http.client.HTTPException):
        return Answer(0, {}, b"")
    finally:
        connection.close()


def send_all(target: Target, bodies: Iterable[bytes], **headers: str) -> list[Answer]:
    """Send bodies at once, each on a connection of its own."""

    def send_body(body: bytes) -> Answer:
        return send(target, body, **headers)

    with ThreadPoolExecutor(64) as pool:
        return list(pool.map(send_body, bodies))


def connect(target: Target, timeout: float = TIMEOUT) -> socket.socket:
    """Return a connection."""
    return socket.create_connection(("127.0.0.1", target.port), timeout=timeout)


def send_until_closed(target: Target, start: bytes, piece: bytes, limit: int) -> int:
    """Send `start`, and then `piece` again and again; return the bytes sent when the server closed the connection.

    Without such an end, it returns `limit`.
    """
    sent = 0
    with connect(target) as client:
        try:
            client.sendall(start)
            while sent < limit:
                client.sendall(piece)
                sent += len(piece)
        except OSError:
            return sent
    return limit


@contextmanager
def open_connections(target: Target, count: int, start: bytes = b"") -> Generator[list[socket.socket]]:
    """Open connections that send `start` and nothing more."""
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(connect(target))
            connections[-1].sendall(start)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def is_serving(target: Target) -> bool:
    """Return True if the proxy answers an honest small request."""
    return target.is_alive and send(target, SMALL_CHAT).status == 200


def time_request(target: Target) -> float:
    """Return how long an honest small request takes, in seconds; infinity if it fails."""
    start_time = time.monotonic()
    return time.monotonic() - start_time if send(target, SMALL_CHAT).status == 200 else float("inf")


def describe_holds(target: Target) -> tuple[bool, str]:
    """Return whether the event loop was never held for long since the last call, and what was measured."""
    holds = target.read_holds()
    return not holds, f"loop held {max(holds):.0f} ms" if holds else "loop free"
