"""Connections of clients: HTTP/1.0, HTTP/2 offers, idle connections."""

import asyncio
import socket
import time

import httpx
import orjson
import pytest

from clara_proxy.proxy.commands import serve
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    FaultyUpstream,
    completion_chunk,
    http_chunk,
    sse_event,
)
from clara_proxy.tests.faulty import Connection as UpstreamConnection
from clara_proxy.tests.running import TIMEOUT, Proxy, short_chat, tool_chat

CHAT = "/v1/chat/completions"


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(proxy.url).port or 0), timeout=TIMEOUT)


def read_to_end(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of the response of a connection that the server closes."""
    received = b""
    while data := connection.recv(65536):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    return head.lower(), body


def format_request(version: str, body: bytes, *headers: str, path: str = CHAT) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
@pytest.mark.parametrize("more", [(), ("connection: keep-alive",)])
def test_a_client_of_http_1_0_gets_a_whole_response(
    proxy: Proxy, upstream: FaultyUpstream, path: str, more: tuple[str, ...]
) -> None:
    with connect(proxy) as connection:
        connection.sendall(format_request("1.0", orjson.dumps(tool_chat()), *more, path=path))
        head, body = read_to_end(connection)
    assert head.startswith(b"http/1.1 200 ")
    assert b"chunked" not in head
    assert orjson.loads(body)["choices"][0]["message"]["content"] == "the disk is full"


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_a_client_of_http_1_0_gets_a_stream_without_chunk_sizes(
    proxy: Proxy, upstream: FaultyUpstream, path: str
) -> None:
    events = sse_event(completion_chunk("hello")), DONE_EVENT
    upstream.stream_events(*events)
    with connect(proxy) as connection:
        connection.sendall(format_request("1.0", orjson.dumps(short_chat(stream=True)), path=path))
        head, body = read_to_end(connection)
    assert b"chunked" not in head
    assert body == b"".join(events)


def test_a_stream_reaches_a_client_of_http_1_0_at_once(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await connection.send(http_chunk(sse_event(completion_chunk("hello"))))
        await asyncio.to_thread(upstream.client_left.wait, TIMEOUT)
        await connection.send(http_chunk(DONE_EVENT), b"0\r\n\r\n")

    upstream.script = script
    received = b""
    with connect(proxy) as connection:
        connection.sendall(format_request("1.0", orjson.dumps(short_chat(stream=True))))
        while b"hello" not in received:
            received += connection.recv(65536)
        assert DONE_EVENT not in received
        upstream.client_left.set()
        assert b"".join(iter(lambda: connection.recv(65536), b"")) == DONE_EVENT


def test_an_offer_of_http_2_is_ignored(proxy: Proxy, upstream: FaultyUpstream) -> None:
    """Java's HttpClient offers HTTP/2 with its first request."""
    offer = ("host: x", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    body = orjson.dumps(short_chat())
    with connect(proxy) as connection:
        connection.sendall(format_request("1.1", body, *offer))
        time.sleep(0.2)
        connection.sendall(format_request("1.1", body, "host: x", "connection: close"))
        _, responses = read_to_end(connection)
    assert responses.count(b"the disk is full") == 2
    assert [request.body for request in upstream.requests] == [body, body]


def test_an_idle_connection_outlives_the_pools_of_clients() -> None:
    assert serve.KEEP_ALIVE > 90  # Go's and Rust's clients keep idle connections for 90 seconds
    assert serve.Server(lambda: None).config.timeout_keep_alive == serve.KEEP_ALIVE
