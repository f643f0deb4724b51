"""What goes wrong: upstreams that break off, clients that leave, compressors that fail, headers that make no sense."""

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import orjson
import pytest

from clara_proxy.compression.compressor import CompressedPassage, Compressor, Gap, Task
from clara_proxy.compression.tokens import TokenCounter
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.pipeline import rewrite
from clara_proxy.proxy.pipeline.compress import MAX_LATE_COUNTS
from clara_proxy.tests import running
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    EVENT_STREAM_HEAD,
    Connection,
    FaultyUpstream,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.running import LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER = "/v1/chat/completions", "/v1/moderations"
BOTH = pytest.mark.parametrize("path", [CHAT, OTHER])
STREAM = short_chat(stream=True)
HALF = sse_event(completion_chunk("more"))[:30]


@pytest.fixture(scope="module")
def hasty(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("hasty"), read_timeout=0.3) as proxy:
        yield proxy


class Failing:
    """A compressor that raises."""

    name = "failing"

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        raise RuntimeError("it does not work")


class Slow(Failing):
    """A compressor that takes its time."""

    def compress(self, task: Task) -> CompressedPassage | None:
        time.sleep(1)
        return CompressedPassage(("short", Gap(9, "lines")), 10, "lines")


def find_failing(_: str) -> Compressor:
    return Failing()


def find_slow(_: str) -> Compressor:
    return Slow()


def find_nothing(_: str) -> Compressor:
    raise LookupError("there is no compressor")


# The upstream.


@BOTH
def test_an_upstream_that_is_not_there_is_a_502(tmp_path: Path, path: str) -> None:
    with closing(serve.bind_socket("127.0.0.1", 0)) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with running.run_proxy(nowhere, tmp_path) as proxy:
        answer = proxy.post(tool_chat(), path)
        row = proxy.wait_for_row(answer)
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    assert (row.outcome, row.status, row.billed_input, row.saved_cost) == ("failed", 502, None, None)


def test_an_upstream_without_a_name_is_a_502(tmp_path: Path) -> None:
    with running.run_proxy("http://no-such-host.invalid", tmp_path) as proxy:
        assert proxy.post(short_chat()).status_code == 502


@BOTH
def test_a_silent_upstream_is_a_504(hasty: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_then_hang()
    answer = hasty.post(short_chat(), path)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    assert upstream.client_left.wait(TIMEOUT)
    assert hasty.wait_for_row(answer).outcome == "upstream_error"


def test_a_stream_that_falls_silent_ends_with_an_error(hasty: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))), http_chunk(HALF))
    answer = hasty.post(STREAM)
    assert events(answer.content)[0] == completion_chunk("hello")
    assert events(answer.content)[-1]["error"]["code"] == "upstream_timeout"
    assert hasty.wait_for_row(answer).outcome == "upstream_error"


@BOTH
@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_upstream_that_breaks_off_before_it_answers_is_a_502_and_is_not_asked_again(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    async def script(wire: Connection) -> None:
        wire.reset() if how == "reset" else wire.close()

    assert proxy.post(short_chat(), path).status_code == 200  # so that a connection is there to be used again
    upstream.script = script
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_disconnected"
    assert len(upstream.requests) == 2
    assert proxy.wait_for_row(answer).outcome == "upstream_error"


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"])
@BOTH
def test_an_upstream_that_speaks_no_http_is_a_502(
    proxy: Proxy, upstream: FaultyUpstream, said: bytes, path: str
) -> None:
    upstream.respond_with(said)
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_disconnected"


def test_half_an_answer_is_a_502(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(wire: Connection) -> None:
        await wire.send(http_response(b'{"usage": {"prompt_tokens": 7}, "choices": []}')[:-9])
        wire.close()

    upstream.script = script
    answer = proxy.post(short_chat())
    assert answer.status_code == 502
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.billed_input) == ("upstream_error", None)


def test_half_an_answer_that_is_passed_through_is_seen_to_be_half(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(wire: Connection) -> None:
        await wire.send(http_response(b"x" * 1000)[:-500])
        await asyncio.sleep(0.05)
        wire.reset()

    upstream.script = script
    with pytest.raises(httpx.RemoteProtocolError):
        proxy.post({}, OTHER, x_clara_session="half-passed")
    assert proxy.wait_for_row("half-passed").outcome == "upstream_error"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("POST", "/v1/messages"), ("POST", OTHER), ("GET", "/v1/models")]
)
def test_what_nobody_foresaw_is_an_error_as_clients_expect_it(
    tmp_path: Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    def breaks(*_: object) -> str:
        raise ZeroDivisionError("a secret")

    with running.run_proxy(upstream.url, tmp_path, models=({"name": "mine", "litellm": "openai/gpt-4o"},)) as proxy:
        monkeypatch.setattr("clara_proxy.proxy.http.headers.build_upstream_url", breaks)
        body = short_chat() if method == "POST" else None
        answer = httpx.request(method, f"{proxy.url}{path}", json=body, headers={"x-clara-session": "broken"})
        row = proxy.wait_for_row("broken")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the proxy failed"
    assert "secret" not in answer.text
    assert (row.outcome, row.status) == ("failed", 500)


def test_a_client_that_leaves_while_it_names_an_original_is_no_error(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(proxy.url).port or 0)) as wire:
        wire.sendall(b"POST /v1/retrieve HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n{")
        time.sleep(0.1)
    proxy.post(short_chat())  # by now the other has gone, too
    time.sleep(0.1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("half", [b"", HALF])
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_stream_that_breaks_off_ends_with_an_error(
    proxy: Proxy, upstream: FaultyUpstream, how: str, half: bytes, mode: str
) -> None:
    then = Connection.reset if how == "reset" else Connection.close
    upstream.stream_events(sse_event(completion_chunk("hello")), *([half] if half else []), ending=then)
    answer = proxy.post(STREAM, x_clara_mode=mode)
    told = events(answer.content)
    assert told[0] == completion_chunk("hello")
    assert told[1]["error"]["code"] == "upstream_disconnected"
    assert len(told) == 2
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status, row.streamed, row.billed_input) == ("upstream_error", 200, True, None)


def test_the_openai_client_raises_what_a_broken_stream_tells(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(sse_event(completion_chunk("hello")), HALF, ending=Connection.reset)
    said: list[str | None] = []
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="k") as client:
        stream = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            said.extend(piece.choices[0].delta.content for piece in stream)
    assert said == ["hello"]


def test_a_bill_that_came_before_the_break_is_kept(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(
        sse_event(completion_chunk("bye", usage={"prompt_tokens": 11, "completion_tokens": 2})), ending=Connection.reset
    )
    assert proxy.wait_for_row(proxy.post(STREAM)).billed_input == 11


def events(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(one.removeprefix(b"data: ")) for one in content.split(b"\n\n") if one]


# The client.


def leave(
    proxy: Proxy, session: str, body: bytes, path: str = CHAT, *, after: bytes | None = None, how: str = "close"
) -> None:
    """Send a request, wait for some words of the answer if any are named, and leave."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-clara-session: {session}\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":", 1)[1])), timeout=TIMEOUT) as connection:
        connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while after is not None and after not in received:
            received += connection.recv(65536)
        if after is None:
            time.sleep(0.2)  # so that the request is on its way
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@BOTH
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_while_it_waits_is_not_worked_for(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    upstream.respond_then_hang()
    session = f"waits {path} {how}"
    leave(proxy, session, orjson.dumps(tool_chat()), path, how=how)
    assert upstream.client_left.wait(TIMEOUT)
    row = proxy.wait_for_row(session)
    assert (row.outcome, row.status) == ("cancelled", 0)


@BOTH
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_in_the_middle_of_a_stream_is_not_worked_for(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))))
    session = f"streams {path} {how}"
    leave(proxy, session, orjson.dumps(STREAM), path, after=b"hello", how=how)
    assert upstream.client_left.wait(TIMEOUT)
    row = proxy.wait_for_row(session)
    assert (row.outcome, row.status, row.cost) == ("cancelled", 200, None)


def test_a_client_that_leaves_in_the_middle_of_an_endless_stream_is_not_worked_for(
    proxy: Proxy, upstream: FaultyUpstream
) -> None:
    async def script(wire: Connection) -> None:
        await wire.send(EVENT_STREAM_HEAD)
        try:
            while True:
                await wire.send(http_chunk(sse_event(completion_chunk("again"))))
        finally:
            upstream.client_left.set()

    upstream.script = script
    leave(proxy, "endless", orjson.dumps(STREAM), after=b"again")
    assert upstream.client_left.wait(TIMEOUT)
    assert proxy.wait_for_row("endless").outcome == "cancelled"


@BOTH
def test_a_client_that_leaves_while_it_sends_has_cancelled(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    session = f"sends {path}"
    with socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":", 1)[1])), timeout=TIMEOUT) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-clara-session: {session}\r\ncontent-length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        time.sleep(0.2)
    assert proxy.wait_for_row(session).outcome == "cancelled"


def test_a_client_that_leaves_does_not_harm_the_next(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))))
    for number in range(5):
        leave(proxy, f"one of many {number}", orjson.dumps(STREAM), after=b"hello")
    upstream.stream_events(sse_event(completion_chunk("for you")), DONE_EVENT)
    assert proxy.post(STREAM).content == sse_event(completion_chunk("for you")) + DONE_EVENT


async def test_an_openai_client_that_gives_up_has_cancelled(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang()
    headers = {"x-clara-session": "gives up"}
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="k", default_headers=headers) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.3, max_retries=0).chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
            )
    assert await asyncio.to_thread(upstream.client_left.wait, TIMEOUT)
    assert (await asyncio.to_thread(proxy.wait_for_row, "gives up")).outcome == "cancelled"


# The compressors (law 4).


@pytest.mark.parametrize("find", [find_failing, find_nothing])
def test_a_failing_compressor_costs_nobody_an_answer(tmp_path: Path, upstream: FaultyUpstream, find: object) -> None:
    chosen = find_failing if find is find_failing else find_nothing
    body = orjson.dumps(tool_chat())
    with running.run_proxy(upstream.url, tmp_path, chosen) as proxy:
        answer = proxy.post(body)
        assert answer.status_code == 200
        assert upstream.last_request.body == body
        assert "failed=1" in answer.headers["x-clara-skipped"]
        assert answer.headers["x-clara-tokens-saved"] == "0"
        closed = proxy.post(body, x_clara_fail="closed")
        assert closed.status_code == 503
        assert closed.headers["retry-after"] == "1"
        assert closed.json()["error"]["code"] == "compression_failed"
        assert len(upstream.requests) == 1
        assert proxy.wait_for_row(closed).outcome == "failed"
        assert proxy.post(short_chat(), x_clara_fail="closed").status_code == 200


def test_failing_closed_is_a_setting_too(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with running.run_proxy(upstream.url, tmp_path, find_failing, fail="closed") as proxy:
        assert proxy.post(tool_chat()).status_code == 503
        assert proxy.post(tool_chat(), x_clara_fail="open").status_code == 200
        assert proxy.post(tool_chat(stream=True)).status_code == 503


def test_a_late_compressor_is_not_waited_for(tmp_path: Path, upstream: FaultyUpstream) -> None:
    body = orjson.dumps(tool_chat())
    with running.run_proxy(upstream.url, tmp_path, find_slow) as proxy:
        answer = proxy.post(body, x_clara_deadline_ms="1")
        assert upstream.last_request.body == body
        assert "late=1" in answer.headers["x-clara-skipped"]
        again = proxy.post(body)  # what was once sent as it was stays so (law 1)
        assert upstream.last_request.body == body
        assert "late=1" in again.headers["x-clara-skipped"]


class Stuck(TokenCounter):
    """A vocabulary that counts nothing long before it is let go."""

    def __init__(self) -> None:
        super().__init__("o200k_base", is_exact=True)
        self.free = threading.Event()
        self.begun = 0

    def _count_uncached(self, text: str) -> int:
        self.begun += len(text) >= 10_000
        assert len(text) < 10_000 or self.free.wait(TIMEOUT)
        return super()._count_uncached(text)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    counted = Stuck()

    def vocabulary(_: str) -> TokenCounter:
        return counted

    monkeypatch.setattr(rewrite, "get_token_counter", vocabulary)
    yield counted
    counted.free.set()


LONG = f"{LOG_TEXT}\n{uuid4()}\n" * 4


@pytest.mark.parametrize("asked", [{"x_clara_deadline_ms": "1"}, {"x_clara_mode": "off"}], ids=str)
def test_counting_is_not_waited_for_beyond_the_deadline(
    tmp_path: Path, upstream: FaultyUpstream, stuck: Stuck, asked: dict[str, str]
) -> None:
    body = orjson.dumps(tool_chat(LONG))
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        answer = proxy.post(body, **asked)
        row = proxy.wait_for_row(answer)
        stuck.free.set()
    assert upstream.last_request.body == body
    assert answer.headers["x-clara-skipped"] == ("late=1" if "x_clara_deadline_ms" in asked else "")
    assert row.tokens_estimated
    assert row.saved_tokens == 0
    assert row.tokens_received == pytest.approx(len(LONG) / 4, rel=0.05)


def test_counts_that_nobody_waits_for_do_not_pile_up(tmp_path: Path, upstream: FaultyUpstream, stuck: Stuck) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        for at in range(5):
            answer = proxy.post(tool_chat(f"{at}{LONG}"), x_clara_deadline_ms="20")
            assert answer.headers["x-clara-skipped"] == "late=1"
        assert stuck.begun <= MAX_LATE_COUNTS
        stuck.free.set()
        deadline = time.monotonic() + TIMEOUT
        while "late=1" in proxy.post(tool_chat(f"6{LONG}")).headers["x-clara-skipped"]:
            assert time.monotonic() < deadline


def test_counting_that_is_late_fails_closed_where_that_is_asked_for(
    tmp_path: Path, upstream: FaultyUpstream, stuck: Stuck
) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        answer = proxy.post(tool_chat(LONG), x_clara_deadline_ms="1", x_clara_fail="closed")
        stuck.free.set()
    assert (answer.status_code, upstream.requests) == (503, [])


def test_what_was_late_to_be_counted_is_shortened_when_it_comes_again(
    tmp_path: Path, upstream: FaultyUpstream, stuck: Stuck
) -> None:
    body = orjson.dumps(tool_chat(LONG))
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        proxy.post(body, x_clara_deadline_ms="1")
        stuck.free.set()
        again = proxy.post(body)
    assert len(upstream.last_request.body) < len(body) / 2
    assert int(again.headers["x-clara-tokens-saved"]) > 0


def test_without_the_store_of_originals_the_original_goes_up(
    tmp_path: Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put(*_: object) -> list[str]:
        raise OSError("the disk is full")

    body = orjson.dumps(tool_chat())
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        monkeypatch.setattr("clara_proxy.proxy.stores.originals.Originals.put", put)
        answer = proxy.post(body)
        assert answer.status_code == 200
        assert upstream.last_request.body == body
        assert answer.headers["x-clara-skipped"] == "failed=1"
        assert proxy.post(body, x_clara_fail="closed").status_code == 503


# The headers.

BAD = {
    "mode": ["loud", "", "auto,off"],
    "bypass": ["maybe", "2", ""],
    "ratio": ["0", "0.5", "-4", "nan", "inf", "1e3", "2000", "four", ""],
    "budget": ["0", "-1", "1.5", "many", "99999999999", ""],
    "min-tokens": ["0", "-1", "x"],
    "roles": ["tool,system", "oracle"],
    "deadline-ms": ["0", "-5", "soon", "1.5"],
    "fail": ["ajar", "true"],
    "retrieve": ["yes", "true"],
    "colour": ["red"],
    "tag-": ["x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_header_that_makes_no_sense_is_a_400_that_names_it(
    proxy: Proxy, upstream: FaultyUpstream, name: str, value: str
) -> None:
    for path in (CHAT, OTHER):
        answer = proxy.post(short_chat(), path, **{f"x-clara-{name}": value})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == f"x-clara-{name}"
        assert f"x-clara-{name}" in error["message"]
    assert not upstream.requests


def test_a_refused_header_leaves_a_row(proxy: Proxy) -> None:
    row = proxy.wait_for_row(proxy.post(short_chat(), x_clara_mode="loud"))
    assert (row.outcome, row.status, row.cost) == ("rejected", 400, 0.0)


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_a_mode_that_needs_clara_is_not_pretended(proxy: Proxy, upstream: FaultyUpstream, mode: str) -> None:
    answer = proxy.post(tool_chat(), x_clara_mode=mode.upper())
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "mode_unavailable"
    assert answer.json()["error"]["param"] == "x-clara-mode"
    assert not upstream.requests
    assert proxy.post(tool_chat(), x_clara_mode=mode, x_clara_bypass="true").status_code == 200


def test_headers_steer_and_label(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = proxy.post(
        tool_chat(), x_clara_ratio="8x", x_clara_project="p", x_clara_user="u", **{"x-clara-tag-team": "blue"}
    )
    gentle = proxy.post(tool_chat(), x_clara_ratio="1.5")
    assert int(answer.headers["x-clara-tokens-after"]) < int(gentle.headers["x-clara-tokens-after"])
    assert proxy.post(tool_chat(), x_clara_roles="user").headers["x-clara-engine"] == "none"
    row = proxy.wait_for_row(answer)
    assert (row.project, row.user, row.tags) == ("p", "u", '{"team":"blue"}')
