"""An upstream that does as it is told, on bare sockets: any bytes, at any pace, broken off at any place.

It is no web server and no model. It runs an event loop in a thread of its own, so that clients that block can be
tested; `heard` is what arrived, byte for byte, in the order of arrival.
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

TIMEOUT = 20.0  # seconds until something that must happen is missed
USAGE = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}
MESSAGE = {"role": "assistant", "content": "the disk is full"}


class ReceivedRequest(NamedTuple):
    """A request as it arrived: its first line, its headers in order, and its body without any framing."""

    request_line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header_values(self, name: str) -> list[bytes]:
        """Return every value of a header, which is named in lower case."""
        return [value for header, value in self.headers if header.lower() == name.encode()]

    @property
    def json(self) -> Any:
        """Return the body, parsed."""
        return orjson.loads(self.body)


class Connection:
    """One request that has arrived, and the connection to answer it on."""

    def __init__(self, heard: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = heard
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send bytes, each piece on its own."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def wait_closed(self) -> None:
        """Return when the other side has closed the connection."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def close(self) -> None:
        """Close the connection, as a server does that has said all it wants to say."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection, as a server does that is killed."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


ResponseScript = Callable[[Connection], Awaitable[None]]


class FaultyUpstream:
    """The upstream: answers every request with its script of the moment."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[ReceivedRequest] = []
        self.client_left = threading.Event()
        self.script: ResponseScript = respond_normally
        self._tasks: set[asyncio.Task[None]] = set()

    def reset(self) -> None:
        """Forget everything, and answer as an upstream does that is well."""
        self.requests, self.client_left, self.script = [], threading.Event(), respond_normally

    @property
    def last_request(self) -> ReceivedRequest:
        """Return the latest request."""
        return self.requests[-1]

    def respond_with(self, *pieces: bytes) -> None:
        """From now on answer with these bytes."""

        async def script(wire: Connection) -> None:
            await wire.send(*pieces)

        self.script = script

    def stream_events(self, *pieces: bytes, ending: Callable[[Connection], None] | None = None) -> None:
        """From now on answer with an event stream of these pieces, which ends well or as `then` ends it."""

        async def script(wire: Connection) -> None:
            await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, pieces))
            if ending is None:
                await wire.send(b"0\r\n\r\n")
            else:
                await asyncio.sleep(0.05)  # so that a reset does not overtake what was said before it
                ending(wire)

        self.script = script

    def respond_then_hang(self, *pieces: bytes) -> None:
        """From now on answer with these bytes, then say nothing until the other side leaves, which sets `left`."""

        async def script(wire: Connection) -> None:
            await wire.send(*pieces)
            await wire.wait_closed()
            self.client_left.set()

        self.script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                heard = await _read_request(reader)
                self.requests.append(heard)
                await self.script(Connection(heard, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side has left, or the test is over
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
    headers = [(name, value.strip()) for name, _, value in (one.partition(b":") for one in rest)]
    named = {name.lower(): value for name, value in headers}
    if named.get(b"transfer-encoding") == b"chunked":
        return ReceivedRequest(line, headers, await _read_chunked_body(reader))
    return ReceivedRequest(line, headers, await reader.readexactly(int(named.get(b"content-length", b"0"))))


async def _read_chunked_body(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)


def http_response(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """Write a whole response down; `headers` are whole lines."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def http_chunk(data: bytes) -> bytes:
    """Frame a piece of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse_event(data: object) -> bytes:
    """Write a server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def completion_chunk(text: str, **more: Any) -> dict[str, Any]:
    """Return one chunk of a streamed answer."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": choices, **more}


def completion(**more: Any) -> dict[str, Any]:
    """Return a whole answer."""
    choices = [{"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": None}]
    return {
        "id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": choices, "usage": USAGE,
    } | more  # fmt: skip


EVENT_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE_EVENT = b"data: [DONE]\n\n"


async def respond_normally(wire: Connection) -> None:
    """Answer as an upstream does that is well, streamed when that is asked for."""
    request = parse_object(wire.request.body) or {}
    if request.get("stream") is not True:
        await wire.send(http_response(orjson.dumps(completion())))
        return
    asked = request.get("stream_options") == {"include_usage": True}
    null: dict[str, Any] = {"usage": None} if asked else {}
    events = [sse_event(completion_chunk(text, **null)) for text in ("the disk", " is full")]
    events += [sse_event(completion_chunk("", choices=[], usage=USAGE))] if asked else []
    await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, [*events, DONE_EVENT]), b"0\r\n\r\n")
