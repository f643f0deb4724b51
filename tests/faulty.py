"""An upstream on bare sockets that sends any bytes, at any pace, and disconnects at any point.

It runs an event loop in its own thread, so that blocking clients can be tested. `requests` holds the received requests,
byte for byte, in the order of arrival.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import orjson

from clara_proxy.proxy.protocols.json_types import parse_object

TIMEOUT = 20.0  # seconds after which a wait fails
USAGE = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}
MESSAGE = {"role": "assistant", "content": "the disk is full"}


class ReceivedRequest(NamedTuple):
    """A received request: request line, headers in order, and body without framing."""

    request_line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header_values(self, name: str) -> list[bytes]:
        """Return all values of a header; the name must be in lower case."""
        return [value for header, value in self.headers if header.lower() == name.encode()]

    @property
    def json(self) -> Any:
        """Return the body, parsed."""
        return orjson.loads(self.body)


class Connection:
    """A received request and its connection."""

    def __init__(self, request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send each piece separately."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def wait_closed(self) -> None:
        """Wait until the client closes the connection."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def close(self) -> None:
        """Close the connection normally."""
        self._writer.close()

    def reset(self) -> None:
        """Reset the connection, like a killed server."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


ResponseScript = Callable[[Connection], Awaitable[None]]


class FaultyUpstream:
    """An upstream that answers each request with its current script."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[ReceivedRequest] = []
        self.client_left = threading.Event()
        self.script: ResponseScript = respond_normally
        self._tasks: set[asyncio.Task[None]] = set()

    def reset(self) -> None:
        """Forget all requests, and answer normally from now on."""
        self.requests, self.client_left, self.script = [], threading.Event(), respond_normally

    @property
    def last_request(self) -> ReceivedRequest:
        """Return the latest request."""
        return self.requests[-1]

    def respond_with(self, *pieces: bytes) -> None:
        """Answer with these bytes from now on."""

        async def script(connection: Connection) -> None:
            await connection.send(*pieces)

        self.script = script

    def stream_events(self, *pieces: bytes, ending: Callable[[Connection], None] | None = None) -> None:
        """Answer with an event stream of these pieces from now on; `ending` replaces its normal end."""

        async def script(connection: Connection) -> None:
            await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, pieces))
            if ending is None:
                await connection.send(b"0\r\n\r\n")
            else:
                await asyncio.sleep(0.05)  # so that a reset does not overtake the data
                ending(connection)

        self.script = script

    def respond_then_hang(self, *pieces: bytes) -> None:
        """Answer with these bytes from now on, then hang until the client disconnects, which sets `client_left`."""

        async def script(connection: Connection) -> None:
            await connection.send(*pieces)
            await connection.wait_closed()
            self.client_left.set()

        self.script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                request = await _read_request(reader)
                self.requests.append(request)
                await self.script(Connection(request, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has disconnected, or the test is over
        finally:
            writer.close()
            self._tasks.discard(task)

    async def stop(self) -> None:
        """Drop all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def run_upstream() -> Generator[FaultyUpstream]:
    """Run a faulty upstream on a free loopback port."""
    faulty = FaultyUpstream()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(faulty.serve, "127.0.0.1", 0, limit=2**26), loop)
    server = starting.result(TIMEOUT)
    faulty.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield faulty
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(faulty.stop(), loop).result(TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT)
        loop.close()


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head[:-4].split(b"\r\n")
    headers = [(name, value.strip()) for name, _, value in (field.partition(b":") for field in rest)]
    values = {name.lower(): value for name, value in headers}
    if values.get(b"transfer-encoding") == b"chunked":
        return ReceivedRequest(line, headers, await _read_chunked_body(reader))
    return ReceivedRequest(line, headers, await reader.readexactly(int(values.get(b"content-length", b"0"))))


async def _read_chunked_body(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)


def http_response(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """Format a whole response; `headers` are whole lines."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def http_chunk(data: bytes) -> bytes:
    """Format a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse_event(data: object) -> bytes:
    """Format a server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def completion_chunk(text: str, **more: Any) -> dict[str, Any]:
    """Return one chunk of a streamed completion."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": choices, **more}


def completion(**more: Any) -> dict[str, Any]:
    """Return a whole completion."""
    choices = [{"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": None}]
    return {
        "id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": choices, "usage": USAGE,
    } | more  # fmt: skip


EVENT_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE_EVENT = b"data: [DONE]\n\n"


async def respond_normally(connection: Connection) -> None:
    """Answer like a normal upstream, streamed if requested."""
    request = parse_object(connection.request.body) or {}
    if request.get("stream") is not True:
        await connection.send(http_response(orjson.dumps(completion())))
        return
    wants_usage = request.get("stream_options") == {"include_usage": True}
    null: dict[str, Any] = {"usage": None} if wants_usage else {}
    events = [sse_event(completion_chunk(text, **null)) for text in ("the disk", " is full")]
    events += [sse_event(completion_chunk("", choices=[], usage=USAGE))] if wants_usage else []
    await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, [*events, DONE_EVENT]), b"0\r\n\r\n")
