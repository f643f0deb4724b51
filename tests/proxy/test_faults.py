"""Faults: upstreams and clients that disconnect, compressors that fail, invalid headers."""

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
from clara_proxy.proxy.pipeline import compress, rewrite
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
    respond_normally,
    sse_event,
)
from clara_proxy.tests.running import LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER = "/v1/chat/completions", "/v1/moderations"
both_paths = pytest.mark.parametrize("path", [CHAT, OTHER])
STREAMED_CHAT = short_chat(stream=True)
HALF_EVENT = sse_event(completion_chunk("more"))[:30]


@pytest.fixture(scope="module")
def impatient_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("hasty"), read_timeout=0.3) as proxy:
        yield proxy


class FailingCompressor:
    """A compressor that raises."""

    name = "failing"

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        raise RuntimeError("it does not work")


class SlowCompressor(FailingCompressor):
    """A compressor that takes a second."""

    def compress(self, task: Task) -> CompressedPassage | None:
        time.sleep(1)
        return CompressedPassage(("short", Gap(9, "lines")), 10, "lines")


def find_failing(_: str) -> Compressor:
    return FailingCompressor()


def find_slow(_: str) -> Compressor:
    return SlowCompressor()


def find_no_compressor(_: str) -> Compressor:
    raise LookupError("there is no compressor")


# The upstream.


@both_paths
def test_an_unreachable_upstream_is_a_502(tmp_path: Path, path: str) -> None:
    with closing(serve.bind_socket("127.0.0.1", 0)) as listener:
        listener.listen()
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with running.run_proxy(nowhere, tmp_path) as proxy:
        answer = proxy.post(tool_chat(), path)
        row = proxy.wait_for_row(answer)
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    assert (row.outcome, row.status, row.billed_input, row.saved_cost) == ("failed", 502, None, None)


def test_an_unknown_upstream_host_is_a_502(tmp_path: Path) -> None:
    with running.run_proxy("http://no-such-host.invalid", tmp_path) as proxy:
        assert proxy.post(short_chat()).status_code == 502


@both_paths
def test_a_silent_upstream_is_a_504(impatient_proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_then_hang()
    answer = impatient_proxy.post(short_chat(), path)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    assert upstream.client_left.wait(TIMEOUT)
    assert impatient_proxy.wait_for_row(answer).outcome == "upstream_error"


def test_a_stalled_stream_ends_with_an_error(impatient_proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(
        EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))), http_chunk(HALF_EVENT)
    )
    answer = impatient_proxy.post(STREAMED_CHAT)
    assert events(answer.content)[0] == completion_chunk("hello")
    assert events(answer.content)[-1]["error"]["code"] == "upstream_timeout"
    assert impatient_proxy.wait_for_row(answer).outcome == "upstream_error"


@both_paths
@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_early_disconnect_of_the_upstream_is_a_502_without_a_retry(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    async def script(connection: Connection) -> None:
        connection.reset() if how == "reset" else connection.close()

    assert proxy.post(short_chat(), path).status_code == 200  # so that the pool has a connection to reuse
    upstream.script = script
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_disconnected"
    assert len(upstream.requests) == 2
    assert proxy.wait_for_row(answer).outcome == "upstream_error"


@both_paths
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_connection_that_was_closed_while_idle_is_replaced_once(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str, failures: int
) -> None:
    async def script(connection: Connection) -> None:
        if len(upstream.requests) <= 1 + failures:
            connection.reset() if how == "reset" else connection.close()
        else:
            await respond_normally(connection)

    assert proxy.post(short_chat(), path).status_code == 200  # so that the pool has a connection to reuse
    time.sleep(1.2)
    upstream.script = script
    answer = proxy.post(tool_chat(), path)
    assert answer.status_code == (200 if failures == 1 else 502)
    assert len(upstream.requests) == 3
    assert upstream.requests[1].body == upstream.requests[2].body != b""
    assert proxy.wait_for_row(answer).status == answer.status_code


@pytest.mark.parametrize(
    "response", [b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"]
)
@both_paths
def test_an_upstream_without_http_is_a_502(proxy: Proxy, upstream: FaultyUpstream, response: bytes, path: str) -> None:
    upstream.respond_with(response)
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_disconnected"


def test_a_truncated_response_is_a_502(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: Connection) -> None:
        await connection.send(http_response(b'{"usage": {"prompt_tokens": 7}, "choices": []}')[:-9])
        connection.close()

    upstream.script = script
    answer = proxy.post(short_chat())
    assert answer.status_code == 502
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.billed_input) == ("upstream_error", None)


def test_a_truncated_passthrough_response_stays_truncated(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: Connection) -> None:
        await connection.send(http_response(b"x" * 1000)[:-500])
        await asyncio.sleep(0.05)
        connection.reset()

    upstream.script = script
    with pytest.raises(httpx.RemoteProtocolError):
        proxy.post({}, OTHER, x_clara_session="half-passed")
    assert proxy.wait_for_row("half-passed").outcome == "upstream_error"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("POST", "/v1/messages"), ("POST", OTHER), ("GET", "/v1/models")]
)
def test_an_unexpected_exception_is_a_500_in_the_apis_format(
    tmp_path: Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    def fail(*_: object) -> str:
        raise ZeroDivisionError("a secret")

    with running.run_proxy(upstream.url, tmp_path, models=({"name": "mine", "litellm": "openai/gpt-4o"},)) as proxy:
        monkeypatch.setattr("clara_proxy.proxy.http.headers.build_upstream_url", fail)
        body = short_chat() if method == "POST" else None
        answer = httpx.request(method, f"{proxy.url}{path}", json=body, headers={"x-clara-session": "broken"})
        row = proxy.wait_for_row("broken")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the proxy failed"
    assert "secret" not in answer.text
    assert (row.outcome, row.status) == ("failed", 500)


def test_a_disconnect_during_retrieve_logs_no_error(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(proxy.url).port or 0)) as connection:
        connection.sendall(b"POST /v1/retrieve HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n{")
        time.sleep(0.1)
    proxy.post(short_chat())  # the other client has disconnected by now
    time.sleep(0.1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("last_chunk", [b"", HALF_EVENT])
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_broken_stream_ends_with_an_error(
    proxy: Proxy, upstream: FaultyUpstream, how: str, last_chunk: bytes, mode: str
) -> None:
    ending = Connection.reset if how == "reset" else Connection.close
    upstream.stream_events(sse_event(completion_chunk("hello")), *([last_chunk] if last_chunk else []), ending=ending)
    answer = proxy.post(STREAMED_CHAT, x_clara_mode=mode)
    chunks = events(answer.content)
    assert chunks[0] == completion_chunk("hello")
    assert chunks[1]["error"]["code"] == "upstream_disconnected"
    assert len(chunks) == 2
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status, row.streamed, row.billed_input) == ("upstream_error", 200, True, None)


def test_the_openai_client_raises_the_error_of_a_broken_stream(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(sse_event(completion_chunk("hello")), HALF_EVENT, ending=Connection.reset)
    texts: list[str | None] = []
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="k") as client:
        stream = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="the upstream disconnected"):
            texts.extend(chunk.choices[0].delta.content for chunk in stream)
    assert texts == ["hello"]


def test_usage_before_a_disconnect_is_billed(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.stream_events(
        sse_event(completion_chunk("bye", usage={"prompt_tokens": 11, "completion_tokens": 2})), ending=Connection.reset
    )
    assert proxy.wait_for_row(proxy.post(STREAMED_CHAT)).billed_input == 11


def events(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(event.removeprefix(b"data: ")) for event in content.split(b"\n\n") if event]


# The client.


def leave(
    proxy: Proxy, session: str, body: bytes, path: str = CHAT, *, after: bytes | None = None, how: str = "close"
) -> None:
    """Send a request, wait for `after` in the response, if given, and disconnect."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-clara-session: {session}\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":", 1)[1])), timeout=TIMEOUT) as connection:
        connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while after is not None and after not in received:
            received += connection.recv(65536)
        if after is None:
            time.sleep(0.2)  # so that the proxy has the request
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@both_paths
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_disconnect_while_waiting_cancels_the_request(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    upstream.respond_then_hang()
    session = f"waits {path} {how}"
    leave(proxy, session, orjson.dumps(tool_chat()), path, how=how)
    assert upstream.client_left.wait(TIMEOUT)
    row = proxy.wait_for_row(session)
    assert (row.outcome, row.status) == ("cancelled", 0)


@both_paths
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_disconnect_during_a_stream_cancels_the_request(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))))
    session = f"streams {path} {how}"
    leave(proxy, session, orjson.dumps(STREAMED_CHAT), path, after=b"hello", how=how)
    assert upstream.client_left.wait(TIMEOUT)
    row = proxy.wait_for_row(session)
    assert (row.outcome, row.status, row.cost) == ("cancelled", 200, None)


def test_a_disconnect_during_an_endless_stream_cancels_the_request(proxy: Proxy, upstream: FaultyUpstream) -> None:
    async def script(connection: Connection) -> None:
        await connection.send(EVENT_STREAM_HEAD)
        try:
            while True:
                await connection.send(http_chunk(sse_event(completion_chunk("again"))))
        finally:
            upstream.client_left.set()

    upstream.script = script
    leave(proxy, "endless", orjson.dumps(STREAMED_CHAT), after=b"again")
    assert upstream.client_left.wait(TIMEOUT)
    assert proxy.wait_for_row("endless").outcome == "cancelled"


@both_paths
def test_a_disconnect_during_the_upload_cancels_the_request(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    session = f"sends {path}"
    with socket.create_connection(("127.0.0.1", int(proxy.url.rsplit(":", 1)[1])), timeout=TIMEOUT) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-clara-session: {session}\r\ncontent-length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        time.sleep(0.2)
    assert proxy.wait_for_row(session).outcome == "cancelled"


def test_a_disconnect_does_not_affect_the_next_client(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("hello"))))
    for number in range(5):
        leave(proxy, f"one of many {number}", orjson.dumps(STREAMED_CHAT), after=b"hello")
    upstream.stream_events(sse_event(completion_chunk("for you")), DONE_EVENT)
    assert proxy.post(STREAMED_CHAT).content == sse_event(completion_chunk("for you")) + DONE_EVENT


async def test_a_timeout_of_the_openai_client_cancels_the_request(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_then_hang()
    headers = {"x-clara-session": "gives up"}
    async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="k", default_headers=headers) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.3, max_retries=0).chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
            )
    assert await asyncio.to_thread(upstream.client_left.wait, TIMEOUT)
    assert (await asyncio.to_thread(proxy.wait_for_row, "gives up")).outcome == "cancelled"


# The compressors.


@pytest.mark.parametrize("find", [find_failing, find_no_compressor])
def test_a_failing_compressor_leaves_the_request_unchanged(
    tmp_path: Path, upstream: FaultyUpstream, find: object
) -> None:
    find_compressor = find_failing if find is find_failing else find_no_compressor
    body = orjson.dumps(tool_chat())
    with running.run_proxy(upstream.url, tmp_path, find_compressor) as proxy:
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


def test_fail_closed_can_be_the_default(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with running.run_proxy(upstream.url, tmp_path, find_failing, fail="closed") as proxy:
        assert proxy.post(tool_chat()).status_code == 503
        assert proxy.post(tool_chat(), x_clara_fail="open").status_code == 200
        assert proxy.post(tool_chat(stream=True)).status_code == 503


def test_a_late_compressor_is_skipped(tmp_path: Path, upstream: FaultyUpstream) -> None:
    body = orjson.dumps(tool_chat())
    with running.run_proxy(upstream.url, tmp_path, find_slow) as proxy:
        answer = proxy.post(body, x_clara_deadline_ms="1")
        assert upstream.last_request.body == body
        assert "late=1" in answer.headers["x-clara-skipped"]
        again = proxy.post(body)  # the prefix invariant: a passage that was forwarded unchanged stays unchanged
        assert upstream.last_request.body == body
        assert "late=1" in again.headers["x-clara-skipped"]


class BlockingCounter(TokenCounter):
    """A token counter that blocks on long texts until it is released."""

    def __init__(self) -> None:
        super().__init__("o200k_base", is_exact=True)
        self.released = threading.Event()
        self.started_count = 0

    def _count_uncached(self, text: str) -> int:
        self.started_count += len(text) >= 10_000
        assert len(text) < 10_000 or self.released.wait(TIMEOUT)
        return super()._count_uncached(text)


@pytest.fixture
def blocking_counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingCounter]:
    counter = BlockingCounter()

    def vocabulary(_: str) -> TokenCounter:
        return counter

    monkeypatch.setattr(rewrite, "get_token_counter", vocabulary)
    yield counter
    counter.released.set()


LONG_TEXT = f"{LOG_TEXT}\n{uuid4()}\n" * 4


@pytest.mark.parametrize("headers", [{"x_clara_deadline_ms": "1"}, {"x_clara_mode": "off"}], ids=str)
def test_counting_stops_at_the_deadline(
    tmp_path: Path, upstream: FaultyUpstream, blocking_counter: BlockingCounter, headers: dict[str, str]
) -> None:
    body = orjson.dumps(tool_chat(LONG_TEXT))
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        answer = proxy.post(body, **headers)
        row = proxy.wait_for_row(answer)
        blocking_counter.released.set()
    assert upstream.last_request.body == body
    assert answer.headers["x-clara-skipped"] == ("late=1" if "x_clara_deadline_ms" in headers else "")
    assert row.tokens_estimated
    assert row.saved_tokens == 0
    assert row.tokens_received == pytest.approx(len(LONG_TEXT) / 4, rel=0.05)


def test_the_number_of_late_counts_is_limited(
    tmp_path: Path, upstream: FaultyUpstream, blocking_counter: BlockingCounter
) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        for number in range(5):
            answer = proxy.post(tool_chat(f"{number}{LONG_TEXT}"), x_clara_deadline_ms="20")
            assert answer.headers["x-clara-skipped"] == "late=1"
        assert blocking_counter.started_count <= MAX_LATE_COUNTS
        blocking_counter.released.set()
        deadline = time.monotonic() + TIMEOUT
        while "late=1" in proxy.post(tool_chat(f"6{LONG_TEXT}")).headers["x-clara-skipped"]:
            assert time.monotonic() < deadline


def test_a_text_too_long_for_any_model_is_forwarded_unchanged(
    tmp_path: Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "MAX_TEXT_CHARS", len(LONG_TEXT) - 1)
    body = orjson.dumps(tool_chat(LONG_TEXT))
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        for _ in range(2):
            answer = proxy.post(body)
            assert answer.headers["x-clara-skipped"] == "late=1"
            assert upstream.last_request.body == body


def test_a_text_too_long_for_any_model_fails_closed_without_a_retry(
    tmp_path: Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "MAX_TEXT_CHARS", len(LONG_TEXT) - 1)
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        answer = proxy.post(tool_chat(LONG_TEXT), x_clara_fail="closed")
        assert (answer.status_code, answer.json()["error"]["code"], upstream.requests) == (413, "text_too_long", [])
        assert "split it" in answer.json()["error"]["message"]
        sidecar_body = {**tool_chat(LONG_TEXT), "config": {"session_id": "mine"}}
        sidecar = proxy.post(sidecar_body, "/v1/compress")  # a session asks for a 503 if a retry helps
        assert (sidecar.status_code, sidecar.json()["messages"]) == (200, sidecar_body["messages"])


def test_late_counting_fails_closed_if_requested(
    tmp_path: Path, upstream: FaultyUpstream, blocking_counter: BlockingCounter
) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        answer = proxy.post(tool_chat(LONG_TEXT), x_clara_deadline_ms="1", x_clara_fail="closed")
        blocking_counter.released.set()
    assert (answer.status_code, upstream.requests) == (503, [])


def test_a_passage_that_was_counted_late_is_compressed_next_time(
    tmp_path: Path, upstream: FaultyUpstream, blocking_counter: BlockingCounter
) -> None:
    body = orjson.dumps(tool_chat(LONG_TEXT))
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        proxy.post(body, x_clara_deadline_ms="1")
        blocking_counter.released.set()
        again = proxy.post(body)
    assert len(upstream.last_request.body) < len(body) / 2
    assert int(again.headers["x-clara-tokens-saved"]) > 0


def test_a_failed_store_of_originals_leaves_the_request_unchanged(
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

INVALID_HEADERS = {
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


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in INVALID_HEADERS.items() for value in values]
)
def test_an_invalid_header_is_a_400_that_names_it(
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


def test_an_invalid_header_leaves_a_row(proxy: Proxy) -> None:
    row = proxy.wait_for_row(proxy.post(short_chat(), x_clara_mode="loud"))
    assert (row.outcome, row.status, row.cost) == ("rejected", 400, 0.0)


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_an_unavailable_mode_is_a_400(proxy: Proxy, upstream: FaultyUpstream, mode: str) -> None:
    answer = proxy.post(tool_chat(), x_clara_mode=mode.upper())
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "mode_unavailable"
    assert answer.json()["error"]["param"] == "x-clara-mode"
    assert not upstream.requests
    assert proxy.post(tool_chat(), x_clara_mode=mode, x_clara_bypass="true").status_code == 200


def test_headers_set_options_and_labels(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = proxy.post(
        tool_chat(), x_clara_ratio="8x", x_clara_project="p", x_clara_user="u", **{"x-clara-tag-team": "blue"}
    )
    less_compressed = proxy.post(tool_chat(), x_clara_ratio="1.5")
    assert int(answer.headers["x-clara-tokens-after"]) < int(less_compressed.headers["x-clara-tokens-after"])
    assert proxy.post(tool_chat(), x_clara_roles="user").headers["x-clara-engine"] == "none"
    row = proxy.wait_for_row(answer)
    assert (row.project, row.user, row.tags) == ("p", "u", '{"team":"blue"}')
