"""Limits on request bodies together, on the values in one, and on the answers that are held."""

import asyncio
import gzip
from collections.abc import Iterator

import orjson
import pytest

from clara_proxy.proxy.http.body_budget import FREE_BYTES, BodyBudget
from clara_proxy.proxy.http.content_encoding import decode_body
from clara_proxy.proxy.http.upstream import MAX_BUFFERED_BYTES
from clara_proxy.proxy.protocols import request_json, sse
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.protocols.request_json import MAX_VALUES, count_values, parse_request
from clara_proxy.tests import running
from clara_proxy.tests.faulty import Connection, FaultyUpstream, http_response
from clara_proxy.tests.running import Proxy, short_chat

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def narrow(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("narrow"), bodies_mb=5) as proxy:
        yield proxy


def build_body(size: int) -> bytes:
    return orjson.dumps(short_chat(x="x" * size))


def test_bodies_share_a_budget_and_give_it_back() -> None:
    budget = BodyBudget(10 * MEGABYTE)
    with budget.reserve() as first, budget.reserve() as second:
        first.grow_to(FREE_BYTES)
        assert budget.free_bytes == 10 * MEGABYTE
        first.grow_to(6 * MEGABYTE)
        first.grow_to(2 * MEGABYTE)
        second.grow_to(4 * MEGABYTE)
        with pytest.raises(ApiError, match="too many large requests") as error:
            second.grow_to(5 * MEGABYTE)
        assert (error.value.status, error.value.headers) == (503, {"retry-after": "1"})
    assert budget.free_bytes == 10 * MEGABYTE


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_body_beyond_the_budget_gets_a_503_and_others_are_served(
    narrow: Proxy, upstream: FaultyUpstream, encoding: str
) -> None:
    body = build_body(6 * MEGABYTE)
    packed = gzip.compress(body, 1) if encoding == "gzip" else body
    for _ in range(3):
        answer = narrow.post(packed, content_encoding=encoding)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert narrow.wait_for_row(answer).outcome == "failed"
    assert not upstream.requests
    assert narrow.post(build_body(3 * MEGABYTE)).status_code == 200
    assert narrow.post(body, path="/v1/embeddings").status_code == 503


async def test_unpacking_stops_as_soon_as_the_budget_is_exceeded() -> None:
    budget = BodyBudget(4 * MEGABYTE)
    packed = gzip.compress(bytes(200 * MEGABYTE), 1)
    with budget.reserve() as reservation, pytest.raises(ApiError, match="too many large requests"):
        await decode_body(packed, "gzip", 300 * MEGABYTE, reservation)
    assert budget.free_bytes == 4 * MEGABYTE


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"{}", 1),
        (b'{"a":[1,2,3],"b":{}}', 6),
        (rb'{"a,[{":"\",[{\\","b":""}', 2),
        (b'"a,b,c"', 0),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 100])
def test_values_are_counted_outside_of_strings(
    text: bytes, count: int, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_json, "_PIECE_BYTES", piece_bytes)
    assert count_values(text) == count


@pytest.mark.parametrize("value", [b"{}", b"0", b'""', b"[]"])
def test_a_body_of_too_many_values_gets_a_413(proxy: Proxy, upstream: FaultyUpstream, value: bytes) -> None:
    body = b'{"model":"clara","messages":[],"x":[' + (value + b",") * MAX_VALUES + b"0]}"
    answer = proxy.post(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert not upstream.requests


def test_long_texts_with_commas_are_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_json, "MAX_VALUES", 10)
    assert parse_request(orjson.dumps(short_chat(x='a,"b",[{' * 1000))) is not None


def stream_answer(upstream: FaultyUpstream, size: int) -> None:
    async def script(connection: Connection) -> None:
        await connection.send(http_response(b'{"choices":[{"message":{"content":"' + b"a" * size + b'"}}]}'))

    upstream.script = script


def test_an_answer_too_large_to_be_held_is_relayed(proxy: Proxy, upstream: FaultyUpstream) -> None:
    stream_answer(upstream, MAX_BUFFERED_BYTES)
    answer = proxy.post(short_chat())
    assert (answer.status_code, len(answer.json()["choices"][0]["message"]["content"])) == (200, MAX_BUFFERED_BYTES)
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.billed_input) == ("ok", None)


def test_an_answer_too_large_to_be_filtered_is_a_502(proxy: Proxy, upstream: FaultyUpstream) -> None:
    stream_answer(upstream, MAX_BUFFERED_BYTES)
    tool = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}
    answer = proxy.post(short_chat(tools=[tool]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "answer_too_large")


async def test_a_long_chunk_comes_in_pieces_with_turns_in_between() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count_turns())
    chunk = bytes(range(256)) * 256
    pieces = [piece async for piece in sse.iter_pieces(chunk)]
    task.cancel()
    assert b"".join(pieces) == chunk
    assert max(map(len, pieces)) <= sse.PIECE_BYTES
    assert turns >= len(pieces) - 1


@pytest.mark.parametrize("line_end", [b"\r", b"\n", b"\r\n"])
def test_blank_lines_belong_to_the_event_before_them(line_end: bytes) -> None:
    splitter = sse.EventSplitter()
    stream = b"data: 1" + line_end * 5000 + b"data: 2" + line_end * 2
    events = splitter.feed(stream) + splitter.flush()
    assert b"".join(events) == stream
    assert [event.strip() for event in events] == [b"data: 1", b"data: 2"]
