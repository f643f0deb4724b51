"""Streams pass byte for byte, whatever their line ends and chunks, without the usage that the proxy asked for."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.protocols.sse import MAX_EVENT_BYTES, UsageTap
from clara_proxy.tests import running
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    USAGE,
    Connection,
    FaultyUpstream,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.running import TIMEOUT, Proxy, short_chat, tool_chat

REQUEST = short_chat(stream=True)
TEXTS = ("naïve ", "漢字", " 😀", ' "usage":null, {"usage": 1}')
EVENTS = [sse_event(completion_chunk(text)) for text in TEXTS]
EVENTS_WITH_NULL_USAGE = [sse_event(completion_chunk(text, usage=None)) for text in TEXTS]
USAGE_EVENT = sse_event(completion_chunk("", choices=[], usage=USAGE))
STREAM = b"".join([*EVENTS, DONE_EVENT])
USAGE_EVENTS = [*EVENTS_WITH_NULL_USAGE, USAGE_EVENT, DONE_EVENT]
STREAM_WITH_USAGE = b"".join(USAGE_EVENTS)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def proxy_without_usage(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that does not ask for usage."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("no-usage"), stream_usage=False) as proxy:
        yield proxy


# UsageTap


def feed(data: bytes, cuts: list[int], *, strip: bool) -> tuple[bytes, Any]:
    """Feed data to a tap in pieces, and return its output and the usage it has read."""
    tap = UsageTap(strip=strip)
    offsets = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [tap.feed(data[start:end]) for start, end in pairwise(offsets)]
    return b"".join(pieces) + tap.flush(), tap.usage


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
cut_lists = st.lists(st.integers(0, 10**6), max_size=60)


@given(cut_lists, line_ends, st.booleans())
def test_stream_passes_whatever_its_pieces_and_line_ends(cuts: list[int], line_end: bytes, strip: bool) -> None:
    data = b"".join([b": hello\n\n", *EVENTS, b"id: 7\nevent: x\ndata: {\ndata: }\n\n", DONE_EVENT])
    data = data.replace(b"\n", line_end)
    assert feed(data, cuts, strip=strip) == (data, None)


def list_lines(stream: bytes) -> list[bytes]:
    """Return the lines that are not blank; an event that is removed may leave a blank line behind."""
    return [line for line in stream.splitlines() if line]


@given(cut_lists, line_ends)
def test_usage_is_removed_whatever_the_pieces(cuts: list[int], line_end: bytes) -> None:
    data = (b": hello\n\n" + STREAM_WITH_USAGE).replace(b"\n", line_end)
    expected = (b": hello\n\n" + STREAM).replace(b"\n", line_end)
    output, usage = feed(data, cuts, strip=True)
    assert list_lines(output) == list_lines(expected)
    assert usage == USAGE


@given(cut_lists)
def test_usage_that_the_client_asked_for_stays(cuts: list[int]) -> None:
    assert feed(STREAM_WITH_USAGE, cuts, strip=False) == (STREAM_WITH_USAGE, USAGE)


@given(st.binary(max_size=300), cut_lists)
def test_bytes_that_are_not_an_event_stream_pass(data: bytes, cuts: list[int]) -> None:
    assert feed(data, cuts, strip=True)[0] == data


def test_usage_in_an_event_with_text_is_read_and_stays() -> None:
    data = sse_event(completion_chunk("bye", usage=USAGE)) + DONE_EVENT
    assert feed(data, [], strip=True) == (data, USAGE)


def test_event_without_an_end_is_not_buffered_forever() -> None:
    tap = UsageTap(strip=True)
    endless = b"data: " + b"x" * MAX_EVENT_BYTES
    assert tap.feed(endless) == endless
    assert tap.discard_partial_event() == b"\n\n"
    assert tap.feed(b"x\n\n") == b"x\n\n"
    assert tap.discard_partial_event() == b""


# Over HTTP


def post_stream(proxy: Proxy, request: dict[str, Any] | bytes, **headers: str) -> httpx.Response:
    """Send a request and check that the response is a stream."""
    response = proxy.post(request, **headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return response


def test_proxy_asks_for_usage_and_removes_it(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(*USAGE_EVENTS)
    response = post_stream(proxy, REQUEST)
    assert response.content == STREAM
    assert upstream.last_request.json == {**REQUEST, "stream_options": {"include_usage": True}}
    row = proxy.wait_for_row(response)
    assert (row.streamed, row.billed_input, row.billed_output) == (True, 40, 5)
    assert row.cost is not None


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}, {}, None])
def test_stream_options_of_the_client_are_unchanged(
    proxy: Proxy, upstream: FaultyUpstream, options: dict[str, bool] | None
) -> None:
    upstream.stream_events(*USAGE_EVENTS)
    request = orjson.dumps({**REQUEST, "stream_options": options})
    response = post_stream(proxy, request)
    assert upstream.last_request.body == request
    assert response.content == STREAM_WITH_USAGE
    assert proxy.wait_for_row(response).billed_input == 40


def test_escaped_name_of_stream_options_is_recognised(proxy: Proxy, upstream: FaultyUpstream) -> None:
    request = orjson.dumps({**REQUEST, "stream_options": {"include_usage": True}})
    request = request.replace(b"stream_options", rb"stream\u005foptions")
    post_stream(proxy, request)
    assert upstream.last_request.body == request


def test_proxy_does_not_ask_for_usage_when_it_is_off(
    proxy: Proxy, proxy_without_usage: Proxy, upstream: FaultyUpstream
) -> None:
    request = orjson.dumps(REQUEST)
    upstream.stream_events(*USAGE_EVENTS)
    for response in (
        post_stream(proxy_without_usage, request),
        post_stream(proxy, request, x_clara_mode="off"),
        post_stream(proxy, request, x_clara_bypass="1"),
    ):
        assert upstream.last_request.body == request
        assert response.content == STREAM_WITH_USAGE


def test_cost_is_unknown_without_usage(proxy_without_usage: Proxy, upstream: FaultyUpstream) -> None:
    row = proxy_without_usage.wait_for_row(post_stream(proxy_without_usage, REQUEST))
    assert (row.billed_input, row.cost, row.saved_cost) == (None, None, None)


def test_stream_of_a_compressed_request_has_headers_and_usage(proxy: Proxy, upstream: FaultyUpstream) -> None:
    response = post_stream(proxy, tool_chat(stream=True))
    saved_tokens = int(response.headers["x-clara-tokens-saved"])
    assert saved_tokens > 1000
    names = {"x-clara-mode", "x-clara-engine", "x-clara-skipped", "x-clara-request-id", "server-timing"}
    assert names <= set(response.headers)
    assert "content-length" not in response.headers
    row = proxy.wait_for_row(response)
    assert (row.saved_tokens, row.billed_input) == (saved_tokens, 40)


UNUSUAL_STREAMS = {
    "comments": b": OPENROUTER PROCESSING\n\n" + EVENTS[0] + b":\n\n" + DONE_EVENT,
    "CRLF": STREAM.replace(b"\n", b"\r\n"),
    "CR": STREAM.replace(b"\n", b"\r"),
    "names and ids": b"event: message\nid: 1\nretry: 10\n" + EVENTS[0] + DONE_EVENT,
    "no space": EVENTS[0].replace(b"data: ", b"data:") + DONE_EVENT,
    "a byte order mark": b"\xef\xbb\xbf" + EVENTS[0] + DONE_EVENT,
    "no end": EVENTS[0] + b"data: [DONE]",
    "an error": sse_event({"error": {"message": "overloaded", "code": None}}),
    "no events": b"<html>busy</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("name", UNUSUAL_STREAMS)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_unusual_stream_passes_byte_for_byte(proxy: Proxy, upstream: FaultyUpstream, name: str, size: int) -> None:
    data = UNUSUAL_STREAMS[name]
    upstream.stream_events(*(data[start : start + size] for start in range(0, len(data), size)))
    assert post_stream(proxy, REQUEST).content == data


def test_stream_in_pieces_of_one_byte_is_the_same(proxy: Proxy, upstream: FaultyUpstream) -> None:
    data = STREAM_WITH_USAGE
    upstream.stream_events(*(data[start : start + 1] for start in range(len(data))))
    assert post_stream(proxy, REQUEST).content == STREAM


def test_event_passes_before_the_next_one_arrives(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(STREAM_HEAD, *map(http_chunk, EVENTS_WITH_NULL_USAGE[:2]))
    with httpx.stream("POST", f"{proxy.url}/v1/chat/completions", json=REQUEST, timeout=TIMEOUT) as response:
        received = b""
        for piece in response.iter_raw():
            received += piece
            if received == b"".join(EVENTS[:2]):
                break
    assert upstream.client_left.wait(TIMEOUT)


def test_error_response_to_a_stream_request_is_not_a_stream(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_with(http_response(b'{"error":{"message":"no"}}', status="400 Bad Request"))
    response = proxy.post(REQUEST)
    assert (response.status_code, response.content) == (400, b'{"error":{"message":"no"}}')


def test_stream_without_length_or_chunks_ends_with_the_connection(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: Connection) -> None:
        head = STREAM_HEAD.replace(b"transfer-encoding: chunked", b"connection: close")
        await connection.send(head, *EVENTS, DONE_EVENT)
        connection.close()

    upstream.script = script
    assert post_stream(proxy, REQUEST).content == STREAM
