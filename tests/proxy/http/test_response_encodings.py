"""Upstreams that encode their answers although the proxy asks for `identity`."""

import gzip
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import orjson
import pytest

from clara_proxy.config import zstd
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.running import Proxy, short_chat, tool_chat


def compress_raw(data: bytes) -> bytes:
    """Compress without zlib's header, as some servers do for `deflate`."""
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", compress_raw),
    "br": ("br", lambda data: cast("bytes", import_module("brotli").compress(data))),
    "zstd": ("zstd", zstd.compress),
    "identity": ("identity", bytes),
    "x-gzip": ("x-gzip", gzip.compress),
    "two": ("gzip, br", lambda data: cast("bytes", import_module("brotli").compress(gzip.compress(data)))),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("tools", [{}, {"tools": [{"type": "function", "function": {"name": "logs"}}]}])
def test_an_encoded_answer_is_decoded(proxy: Proxy, upstream: FaultyUpstream, name: str, tools: dict[str, Any]) -> None:
    encoding, encode = ENCODERS[name]
    upstream.respond_with(http_response(encode(orjson.dumps(completion())), f"content-encoding: {encoding}"))
    answer = proxy.post(tool_chat(**tools), accept_encoding="identity")
    assert answer.json()["choices"][0]["message"]["content"] == "the disk is full"
    assert proxy.wait_for_row(answer).billed_input == 40


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoded_stream_is_decoded(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    encoding, encode = ENCODERS[name]
    events = sse_event(completion_chunk("hello")) + DONE_EVENT
    data = encode(events)

    async def script(connection: Connection) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: {encoding}\r\n"
        chunks = [http_chunk(data[:20]), http_chunk(data[20:])]
        await connection.send(f"{head}transfer-encoding: chunked\r\n\r\n".encode(), *chunks, b"0\r\n\r\n")

    upstream.script = script
    answer = proxy.post(short_chat(stream=True), accept_encoding="identity")
    assert answer.content == events
