"""Streams pass as they came, whatever their line ends and however they are cut; only what we asked for is taken out."""

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
    FaultyUpstream,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.running import TIMEOUT, Proxy, short_chat, tool_chat

STREAM = short_chat(stream=True)
ASKS = short_chat(stream=True, stream_options={"include_usage": True})
PLAIN = [sse_event(completion_chunk(text)) for text in ("naïve ", "漢字", " 😀", ' "usage":null, {"usage": 1}')]
NULLS = [
    sse_event(completion_chunk(text, usage=None)) for text in ("naïve ", "漢字", " 😀", ' "usage":null, {"usage": 1}')
]
BILL = sse_event(completion_chunk("", choices=[], usage=USAGE))


@pytest.fixture(scope="module")
def shy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("shy"), stream_usage=False) as proxy:
        yield proxy


def fed(data: bytes, cuts: list[int], *, strip: bool) -> tuple[bytes, Any]:
    tap = UsageTap(strip=strip)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [tap.feed(data[start:end]) for start, end in pairwise(places)]
    return b"".join(pieces) + tap.flush(), tap.usage


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
CUTS = st.lists(st.integers(0, 10**6), max_size=60)


@given(CUTS, LINE_ENDS, st.booleans())
def test_cuts_and_line_ends_change_nothing(cuts: list[int], end: bytes, strip: bool) -> None:
    data = b"".join([b": hello\n\n", *PLAIN, b"id: 7\nevent: x\ndata: {\ndata: }\n\n", DONE_EVENT]).replace(b"\n", end)
    assert fed(data, cuts, strip=strip) == (data, None)


def lines(stream: bytes) -> list[bytes]:
    """Return what is not blank: an event taken out where its last line end was cut may leave a blank line behind."""
    return [line for line in stream.splitlines() if line]


@given(CUTS, LINE_ENDS)
def test_what_we_asked_for_is_taken_out_wherever_the_stream_is_cut(cuts: list[int], end: bytes) -> None:
    came = b"".join([b": hello\n\n", *NULLS, BILL, DONE_EVENT]).replace(b"\n", end)
    wanted = b"".join([b": hello\n\n", *PLAIN, DONE_EVENT]).replace(b"\n", end)
    passed, usage = fed(came, cuts, strip=True)
    assert lines(passed) == lines(wanted)
    assert usage == USAGE


@given(CUTS)
def test_what_the_client_asked_for_stays(cuts: list[int]) -> None:
    data = b"".join([*NULLS, BILL, DONE_EVENT])
    assert fed(data, cuts, strip=False) == (data, USAGE)


@given(st.binary(max_size=300), CUTS)
def test_what_is_no_event_stream_passes_too(data: bytes, cuts: list[int]) -> None:
    assert fed(data, cuts, strip=True)[0] == data


def test_a_usage_beside_the_last_words_is_read_and_stays() -> None:
    data = sse_event(completion_chunk("bye", usage=USAGE)) + DONE_EVENT
    assert fed(data, [], strip=True) == (data, USAGE)


def test_an_event_without_an_end_is_not_gathered_for_ever() -> None:
    tap = UsageTap(strip=True)
    endless = b"data: " + b"x" * MAX_EVENT_BYTES
    assert tap.feed(endless) == endless
    assert tap.discard_partial_event() == b"\n\n"
    assert tap.feed(b"x\n\n") == b"x\n\n"
    assert tap.discard_partial_event() == b""


def body_of(proxy: Proxy, request: dict[str, Any] | bytes, **headers: str) -> httpx.Response:
    answer = proxy.post(request, **headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return answer


def test_usage_is_asked_for_and_taken_out_again(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(*NULLS, BILL, DONE_EVENT)
    answer = body_of(proxy, STREAM)
    assert answer.content == b"".join([*PLAIN, DONE_EVENT])
    assert upstream.last_request.json == {**STREAM, "stream_options": {"include_usage": True}}
    row = proxy.wait_for_row(answer)
    assert (row.streamed, row.billed_input, row.billed_output) == (True, 40, 5)
    assert row.cost is not None


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}, {}, None])
def test_a_client_that_said_something_about_usage_is_left_alone(
    proxy: Proxy, upstream: FaultyUpstream, options: dict[str, bool] | None
) -> None:
    upstream.stream_events(*NULLS, BILL, DONE_EVENT)
    request = orjson.dumps({**ASKS, "stream_options": options})
    answer = body_of(proxy, request)
    assert upstream.last_request.body == request
    assert answer.content == b"".join([*NULLS, BILL, DONE_EVENT])
    assert proxy.wait_for_row(answer).billed_input == 40


def test_an_escaped_name_of_the_field_counts_as_said(proxy: Proxy, upstream: FaultyUpstream) -> None:
    request = orjson.dumps(ASKS).replace(b"stream_options", rb"stream\u005foptions")
    body_of(proxy, request)
    assert upstream.last_request.body == request


def test_usage_is_not_asked_for_where_that_is_not_wanted(proxy: Proxy, shy: Proxy, upstream: FaultyUpstream) -> None:
    request = orjson.dumps(STREAM)
    upstream.stream_events(*NULLS, BILL, DONE_EVENT)
    for answer in (
        body_of(shy, request),
        body_of(proxy, request, x_clara_mode="off"),
        body_of(proxy, request, x_clara_bypass="1"),
    ):
        assert upstream.last_request.body == request
        assert answer.content == b"".join([*NULLS, BILL, DONE_EVENT])


def test_without_a_bill_the_ledger_says_that_it_does_not_know(shy: Proxy, upstream: FaultyUpstream) -> None:
    row = shy.wait_for_row(body_of(shy, STREAM))
    assert (row.billed_input, row.cost, row.saved_cost) == (None, None, None)


def test_a_shortened_stream_tells_what_was_done_and_the_bill(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = body_of(proxy, tool_chat(stream=True))
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert {"x-clara-mode", "x-clara-engine", "x-clara-skipped", "x-clara-request-id", "server-timing"} <= set(
        answer.headers
    )
    assert "content-length" not in answer.headers
    row = proxy.wait_for_row(answer)
    assert (row.saved_tokens, row.billed_input) == (int(answer.headers["x-clara-tokens-saved"]), 40)


ODD = {
    "comments": b": OPENROUTER PROCESSING\n\n" + PLAIN[0] + b":\n\n" + DONE_EVENT,
    "CRLF": b"".join([*PLAIN, DONE_EVENT]).replace(b"\n", b"\r\n"),
    "CR": b"".join([*PLAIN, DONE_EVENT]).replace(b"\n", b"\r"),
    "names and ids": b"event: message\nid: 1\nretry: 10\n" + PLAIN[0] + DONE_EVENT,
    "no space": PLAIN[0].replace(b"data: ", b"data:") + DONE_EVENT,
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN[0] + DONE_EVENT,
    "no end": PLAIN[0] + b"data: [DONE]",
    "an error": sse_event({"error": {"message": "overloaded", "code": None}}),
    "no events": b"<html>busy</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_an_odd_stream_passes_as_it_came(proxy: Proxy, upstream: FaultyUpstream, name: str, size: int) -> None:
    data = ODD[name]
    upstream.stream_events(*(data[at : at + size] for at in range(0, len(data), size)))
    assert body_of(proxy, STREAM).content == data


def test_every_byte_on_its_own_makes_the_same_stream(proxy: Proxy, upstream: FaultyUpstream) -> None:
    came = b"".join([*NULLS, BILL, DONE_EVENT])
    upstream.stream_events(*(came[at : at + 1] for at in range(len(came))))
    assert body_of(proxy, STREAM).content == b"".join([*PLAIN, DONE_EVENT])


def test_an_event_is_passed_on_before_the_next_one_is_there(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(HEAD, http_chunk(NULLS[0]), http_chunk(NULLS[1]))
    with httpx.stream("POST", f"{proxy.url}/v1/chat/completions", json=STREAM, timeout=TIMEOUT) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if received == b"".join(PLAIN[:2]):
                break
    assert upstream.client_left.wait(TIMEOUT)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_refusal_of_a_stream_is_a_plain_answer(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_with(http_response(b'{"error":{"message":"no"}}', status="400 Bad Request"))
    answer = proxy.post(STREAM)
    assert (answer.status_code, answer.content) == (400, b'{"error":{"message":"no"}}')


def test_a_stream_without_length_or_chunks_ends_with_the_connection(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(wire: Any) -> None:
        await wire.send(HEAD.replace(b"transfer-encoding: chunked", b"connection: close"), *PLAIN, DONE_EVENT)
        wire.close()

    upstream.script = script
    assert body_of(proxy, STREAM).content == b"".join([*PLAIN, DONE_EVENT])
