"""Time to the first event of streamed answers: a small asyncio client, since wrk measures whole answers only.

A connection sends a request, notes when the first `data:` arrives, reads to the end and sends the next. The invariant:
only answers with status 200 that began with an event are counted; anything else is a failure.
"""

import asyncio
import statistics
import time
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from .load import NONCE, build_chat

_BODY_END = b"0\r\n\r\n"


class FirstEventTimes(NamedTuple):
    """Time to the first event in ms over so many answers."""

    p50_ms: float
    p95_ms: float
    answers: int
    failed: int

    def __str__(self) -> str:
        """The figures as one line of a table."""
        failed = f"  FAILED {self.failed}" if self.failed else ""
        return f"first event: p50 {self.p50_ms:8.2f}  p95 {self.p95_ms:8.2f} ms  ({self.answers} answers){failed}"


class _Connection(asyncio.Protocol):
    """One connection; `times` in seconds, one for each answer that began well."""

    def __init__(self, head: bytes, tail: bytes, number: int) -> None:
        self._head, self._tail, self._number = head, tail, number
        self._began: float | None = None
        self.times: list[float] = []
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send_request()

    def _send_request(self) -> None:
        self._number += 1
        self._received = b""
        self._began = time.perf_counter()
        self._transport.write(self._head + b"%08d" % (self._number % 10**8) + self._tail)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._began is not None:
            self._received += data
            self._record_first_event()
        if data.endswith(_BODY_END) and not self._transport.is_closing():
            self._send_request()

    def _record_first_event(self) -> None:
        if self._began is None or b"\r\n\r\n" not in self._received:
            return
        if not self._received.startswith(b"HTTP/1.1 200"):
            self.failed += 1
            self._transport.close()
        elif b"data:" in self._received:
            self.times.append(time.perf_counter() - self._began)
            self._began = None


def _build_request(url: str, size: str) -> tuple[bytes, bytes]:
    body = build_chat(size, streamed=True)
    lines = [
        f"POST {urlsplit(url).path} HTTP/1.1",
        f"Host: {urlsplit(url).netloc}",
        "Authorization: Bearer sk-bench",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    head, tail = ("\r\n".join(lines).encode() + b"\r\n\r\n" + body).split(NONCE.encode())
    return head, tail


async def _measure_async(url: str, size: str, connections: int, seconds: float) -> FirstEventTimes:
    loop = asyncio.get_running_loop()
    at = urlsplit(url)
    head, tail = _build_request(url, size)
    made: list[_Connection] = []
    for number in range(connections):
        start = number * 1_000_000 + time.time_ns() % 1_000_000
        made.append(_Connection(head, tail, start))
        await loop.create_connection(lambda: made[-1], str(at.hostname), int(at.port or 80))
    await asyncio.sleep(seconds)
    for connection in made:
        connection.close()
    times = sorted(one * 1e3 for connection in made for one in connection.times)
    failed = sum(connection.failed for connection in made)
    if len(times) < 2:
        return FirstEventTimes(float("nan"), float("nan"), len(times), failed)
    return FirstEventTimes(statistics.median(times), statistics.quantiles(times, n=20)[18], len(times), failed)


def measure_first_event(url: str, size: str, connections: int, seconds: float) -> FirstEventTimes:
    """Stream from `url` over so many connections at once for so long."""
    return uvloop.run(_measure_async(url, size, connections, seconds))
