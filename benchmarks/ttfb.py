"""Measure the time to the first event of streamed answers, with an asyncio client; wrk times only whole answers.

A connection sends a request, records the arrival of the first `data:`, reads the answer to its end, and sends the next
request. Only answers with status 200 and an event are counted; all others are failures.
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
    """Percentiles of the time to the first event in ms, the number of answers, and the number of failures."""

    p50_ms: float
    p95_ms: float
    answers: int
    failed: int

    def __str__(self) -> str:
        """Return the figures as one row of a table."""
        failed = f"  FAILED {self.failed}" if self.failed else ""
        return f"first event: p50 {self.p50_ms:8.2f}  p95 {self.p95_ms:8.2f} ms  ({self.answers} answers){failed}"


class _Connection(asyncio.Protocol):
    """One connection; `times` has the seconds to the first event of each successful answer."""

    def __init__(self, head: bytes, tail: bytes, number: int) -> None:
        self._head, self._tail, self._number = head, tail, number
        self._sent_at: float | None = None  # None once the first event is recorded
        self.times: list[float] = []
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send_request()

    def _send_request(self) -> None:
        self._number += 1
        self._received = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._head + b"%08d" % (self._number % 10**8) + self._tail)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._sent_at is not None:
            self._received += data
            self._record_first_event()
        if data.endswith(_BODY_END) and not self._transport.is_closing():
            self._send_request()

    def _record_first_event(self) -> None:
        if self._sent_at is None or b"\r\n\r\n" not in self._received:
            return
        if not self._received.startswith(b"HTTP/1.1 200"):
            self.failed += 1
            self._transport.close()
        elif b"data:" in self._received:
            self.times.append(time.perf_counter() - self._sent_at)
            self._sent_at = None


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
    address = urlsplit(url)
    head, tail = _build_request(url, size)
    clients: list[_Connection] = []
    for number in range(connections):
        first_nonce = number * 1_000_000 + time.time_ns() % 1_000_000
        clients.append(_Connection(head, tail, first_nonce))
        await loop.create_connection(lambda: clients[-1], str(address.hostname), int(address.port or 80))
    await asyncio.sleep(seconds)
    for client in clients:
        client.close()
    times = sorted(duration * 1e3 for client in clients for duration in client.times)
    failed = sum(client.failed for client in clients)
    if len(times) < 2:
        return FirstEventTimes(float("nan"), float("nan"), len(times), failed)
    return FirstEventTimes(statistics.median(times), statistics.quantiles(times, n=20)[18], len(times), failed)


def measure_first_event(url: str, size: str, connections: int, seconds: float) -> FirstEventTimes:
    """Stream answers from `url` over `connections` concurrent connections for `seconds`."""
    return uvloop.run(_measure_async(url, size, connections, seconds))
