"""Requests to an upstream that answers early, closes, or has credentials in its URL."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from clara_proxy.proxy.http.upstream import Upstream
from clara_proxy.proxy.protocols.api_errors import ApiError

LARGE = bytes(2**25)  # more than the buffers of a connection hold
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serve(handle: Handle) -> AsyncGenerator[tuple[Upstream, str]]:
    async def handle_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle_and_close, "127.0.0.1", 0)
    upstream = Upstream(connect_timeout=9, read_timeout=9, decompress=True)
    try:
        yield upstream, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await upstream.close()
        server.close()
        await asyncio.sleep(0.01)  # for the connections to close


def respond(writer: asyncio.StreamWriter, status: str = "200 OK", body: bytes = b"{}") -> None:
    writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


async def iterate(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def fail() -> AsyncIterator[bytes]:
    yield b"first"
    raise RuntimeError("the client has left")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], b"authorization: basic dxnlcjpozgvy"),
        ([("Authorization", "Bearer k")], b"authorization: bearer k"),
    ],
)
async def test_credentials_of_the_url_are_sent_unless_the_client_has_its_own(
    headers: list[tuple[str, str]], expected: bytes
) -> None:
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).lower())
        respond(writer)

    async with (
        serve(handle) as (upstream, address),
        upstream.send("GET", f"http://user:hder@{address}/v1/models", headers, None) as reply,
    ):
        assert await reply.read() == b"{}"
    assert [line for line in heads[0].split(b"\r\n") if line.startswith(b"authorization")] == [expected]
    assert f"\r\nhost: {address}\r\n".encode() in heads[0]


@pytest.mark.parametrize("body", [LARGE, "chunked"])
async def test_an_answer_before_the_end_of_a_large_body_is_read(body: bytes | str) -> None:
    released, closed = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        respond(writer, "413 Content Too Large", b"too large")
        await released.wait()
        await reader.read()
        closed.set()

    pieces = iterate(*[LARGE] * 2) if isinstance(body, str) else body
    async with serve(handle) as (upstream, address):
        async with upstream.send("POST", f"http://{address}/v1/files", [], pieces) as reply:
            assert (reply.status, await reply.read()) == (413, b"too large")
        released.set()
        await asyncio.wait_for(closed.wait(), 9)  # the rest of the body cannot follow as the next request


@pytest.mark.parametrize("headers", [[], [("content-length", "11")]])
async def test_a_body_in_pieces_arrives_with_its_length_or_in_chunks(headers: list[tuple[str, str]]) -> None:
    received: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        received.append(await (reader.readexactly(11) if headers else reader.readuntil(b"0\r\n\r\n")))
        respond(writer)

    async with (
        serve(handle) as (upstream, address),
        upstream.send("POST", f"http://{address}/v1/files", headers, iterate(b"hello ", b"world")) as reply,
    ):
        assert await reply.read() == b"{}"
    assert (b"Content-Length: 11\r\n" in received[0], b"chunked" in received[0]) == (bool(headers), not headers)
    assert received[1] == (b"hello world" if headers else b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n")


async def test_a_body_that_breaks_off_ends_the_request() -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    async with serve(handle) as (upstream, address):
        with pytest.raises(ApiError) as error:
            async with upstream.send("POST", f"http://{address}/v1/files", [], fail()):
                raise AssertionError
        assert (error.value.status, error.value.code) == (502, "upstream_disconnected")
        await asyncio.wait_for(ended.wait(), 9)


@pytest.mark.parametrize("header", [("x-a", "1\r\nx-b: 2"), ("x-a\n", "1"), ("x-a", "\0")])
async def test_a_header_with_a_line_end_is_not_sent(header: tuple[str, str]) -> None:
    connections: list[object] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(await reader.read(1))

    async with serve(handle) as (upstream, address):
        with pytest.raises(ApiError, match="ValueError"):
            async with upstream.send("GET", f"http://{address}/", [header], None):
                raise AssertionError
    assert not connections
