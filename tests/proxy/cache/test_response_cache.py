"""Repeated requests get stored answers, in every protocol, plain and streamed; no other request does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest

from clara_proxy.proxy.cache import response_cache
from clara_proxy.proxy.stores.cached_responses import CachedResponse, ResponseStore
from clara_proxy.tests import running
from clara_proxy.tests.faulty import (
    DONE_EVENT,
    EVENT_STREAM_HEAD,
    USAGE,
    Connection,
    FaultyUpstream,
    completion,
    completion_chunk,
    http_chunk,
    http_response,
    sse_event,
)
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.protocols import messages_upstream, responses_upstream
from clara_proxy.tests.running import CLIENT_KEY, Proxy

Json = dict[str, Any]
QUESTION, REPEATED = "How do I report a broken street light?", "hi, how do i report a broken street light"
FINISH = completion_chunk("", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-4o",
    "status": "completed",
    "error": None,
    "output": [responses_upstream.message("by phone")],
    "usage": responses_upstream.USAGE,
    "tools": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
}
MESSAGE = messages_upstream.build_reply([{"type": "text", "text": "by phone"}])


@pytest.fixture(autouse=True)
def patient_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, the first look-up may take longer than a client should wait: it loads the embeddings."""
    monkeypatch.setattr(response_cache, "LOOKUP_SECONDS", 30.0)


@pytest.fixture(scope="module")
def proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("cache"), response_cache="semantic") as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _answers(upstream: FaultyUpstream) -> None:
    """Answer in the protocol of each request, streamed if it asks for a stream."""

    async def script(connection: Connection) -> None:
        request, path = connection.request.json, connection.request.request_line
        if b"/responses" in path:
            reply, events = RESPONSE, list(responses_upstream.encode_events(responses_upstream.iter_events(RESPONSE)))
        elif b"/messages" in path:
            reply = MESSAGE
            events = [
                b"event: " + event["type"].encode() + b"\n" + sse_event(event)
                for event in messages_upstream.iter_events(MESSAGE)
            ]
        else:
            reply = completion()
            usage = completion_chunk("", choices=[], usage=USAGE)
            events = [*map(sse_event, [completion_chunk("by "), completion_chunk("phone"), FINISH, usage]), DONE_EVENT]
        if request.get("stream"):
            await connection.send(EVENT_STREAM_HEAD, *map(http_chunk, events), b"0\r\n\r\n")
        else:
            await connection.send(http_response(orjson.dumps(reply)))

    upstream.script = script


def ask(question: str = QUESTION, **fields: Any) -> Json:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": question}], **fields}


def send_with_client(protocol: str, proxy: Proxy, question: str, *, stream: bool) -> tuple[str, Any]:
    """Send a question with the protocol's own client; return `x-clara-cache` and what the client received."""
    chat: list[Any] = [{"role": "user", "content": question}]
    if protocol == "messages":
        with anthropic.Anthropic(base_url=proxy.url, api_key=CLIENT_KEY, max_retries=0) as client:
            raw = client.messages.with_raw_response.create(model="claude-x", max_tokens=9, messages=chat, stream=stream)
            parsed: Any = raw.parse()
            return raw.headers["x-clara-cache"], list(parsed) if stream else parsed
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as openai_client:
        if protocol == "responses":
            raw_response = openai_client.responses.with_raw_response.create(
                model="gpt-4o", input=question, store=False, stream=stream
            )
        else:
            create: Any = openai_client.chat.completions.with_raw_response.create
            raw_response = create(model="gpt-4o", messages=chat, stream=stream)
        parsed = raw_response.parse()
        return raw_response.headers["x-clara-cache"], list(parsed) if stream else parsed


@pytest.mark.parametrize("protocol", ["chat", "responses", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_repeated_request_gets_the_same_answer(
    proxy: Proxy, upstream: FaultyUpstream, protocol: str, *, stream: bool
) -> None:
    first = send_with_client(protocol, proxy, QUESTION, stream=stream)
    again = send_with_client(protocol, proxy, QUESTION, stream=stream)
    reworded = send_with_client(protocol, proxy, REPEATED, stream=stream)
    assert [first[0], again[0], reworded[0]] == ["miss", "hit", "semantic"]
    assert again[1] == first[1]
    assert reworded[1] == first[1]
    assert len(upstream.requests) == 1


def test_a_hit_costs_nothing_and_saves_the_whole_request(proxy: Proxy) -> None:
    body = ask("How long does a passport renewal take?")
    paid = proxy.wait_for_row(proxy.post(body))
    answer = proxy.post(body)
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.mode_used, row.engine, row.cost) == ("served", "cache", "exact", 0.0)
    assert (row.tokens_received, row.tokens_sent) == (paid.tokens_received, 0)
    assert (row.billed_input, row.billed_output, row.without_input, row.without_output) == (0, 0, 40, 5)
    assert row.saved_cost == row.cost_without == paid.cost
    assert answer.headers["x-clara-mode"] == "cache"


def test_a_hit_uses_no_budget(upstream: FaultyUpstream, tmp_path: Path) -> None:
    key = issue.create_key(tmp_path, "alice", tokens_per_day=90)
    body = ask(max_tokens=5)
    with running.run_proxy(upstream.url, tmp_path, response_cache="exact", upstream_api_key="sk-x") as proxy:
        answers = [proxy.post(body, authorization=f"Bearer {key}") for _ in range(8)]
        others = [proxy.post(ask(seed=seed), authorization=f"Bearer {key}").status_code for seed in (1, 2)]
    assert [answer.headers["x-clara-cache"] for answer in answers] == ["miss", *["hit"] * 7]
    assert others == [200, 429]  # each costs 45 tokens


UNCACHED: dict[str, Json] = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    "n": {"n": 2},
    "stored": {"store": True},
    "live sources": {"web_search_options": {}, "plugins": [{"id": "web"}]},
    "an image by URL": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}]}]
    },
}


@pytest.mark.parametrize("fields", UNCACHED.values(), ids=UNCACHED)
def test_some_requests_are_never_cached(proxy: Proxy, upstream: FaultyUpstream, fields: Json) -> None:
    answers = [proxy.post(ask(**fields)) for _ in range(2)]
    assert len(upstream.requests) == 2
    assert not [answer for answer in answers if "x-clara-cache" in answer.headers]


DIFFERENT: dict[str, tuple[Json, dict[str, str]]] = {
    "another question": (ask("How do I report a broken street sign?"), {}),
    "another model": (ask(model="gpt-4o-mini"), {}),
    "other parameters": (ask(temperature=0.5), {}),
    "a system prompt": ({"model": "gpt-4o", "messages": [{"role": "system", "content": "x"}, *ask()["messages"]]}, {}),
    "another key": (ask(), {"authorization": "Bearer sk-other"}),
    "another mode": (ask(), {"x-clara-mode": "off"}),
    "no-cache": (ask(), {"x-clara-cache": "no-cache"}),
}


@pytest.mark.parametrize(("body", "headers"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_different_request_is_forwarded(
    proxy: Proxy, upstream: FaultyUpstream, body: Json, headers: dict[str, str]
) -> None:
    proxy.post(ask())
    before = len(upstream.requests)
    assert proxy.post(body, **headers).headers["x-clara-cache"] == "miss"
    assert len(upstream.requests) == before + 1


def test_labels_and_the_order_of_fields_do_not_matter(proxy: Proxy) -> None:
    proxy.post(ask(seed=7, user="a"))
    body = {"user": "b", "metadata": {"trace": "1"}, **dict(reversed(ask(seed=7).items()))}
    assert proxy.post(body).headers["x-clara-cache"] == "hit"


def test_no_store_does_not_store_and_bypass_does_not_look_up(proxy: Proxy) -> None:
    body = ask(seed=8)
    assert [proxy.post(body, x_clara_cache="no-store").headers["x-clara-cache"] for _ in range(2)] == ["miss", "miss"]
    assert "x-clara-cache" not in proxy.post(body, x_clara_bypass="true").headers
    assert proxy.post(body, x_clara_cache="ttl=0").status_code == 400


@pytest.mark.parametrize("how", ["cut off", "filtered", "error", "broken stream"])
def test_incomplete_answers_are_not_stored(proxy: Proxy, upstream: FaultyUpstream, how: str) -> None:
    reason = {"cut off": "length", "filtered": "content_filter"}.get(how, "stop")
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": reason}
    reply = {"error": {"message": "x"}} if how == "error" else completion(choices=[choice])
    if how == "broken stream":
        upstream.stream_events(sse_event(completion_chunk("x")))
    else:
        upstream.respond_with(http_response(orjson.dumps(reply)))
    body = ask(seed=9, stream=how == "broken stream", user=how)
    assert [proxy.post(body).headers["x-clara-cache"] for _ in range(2)] == ["miss", "miss"]


def test_trouble_with_the_store_forwards_the_request(
    proxy: Proxy, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.post(ask(seed=10))

    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(ResponseStore, "_read", fail)
    monkeypatch.setattr(ResponseStore, "_insert", fail)
    assert proxy.post(ask(seed=10)).status_code == 200
    assert len(upstream.requests) == 2


async def test_answers_expire_and_the_oldest_make_space(tmp_path: Path) -> None:
    now, body = 1000.0, b""
    store = ResponseStore(tmp_path / "responses.sqlite3", 400_000, clock=lambda: now)
    await store.start()
    for number in range(40):
        now += 1
        body = b"".join(sha.to_bytes(4) for sha in range(number * 5000, number * 5000 + 5000))
        await store.insert(CachedResponse("me", str(number), "", "", 2000.0, body))
    assert await store.read("me", "0", 3600) is None
    assert await store.read("me", "39", 3600) == body
    assert await store.read("you", "39", 3600) is None
    now += 10
    assert await store.read("me", "39", 5) is None
    now = 2001.0
    assert await store.read("me", "39", 3600) is None
    await store.delete_expired()
    await store.stop()
    assert (tmp_path / "responses.sqlite3").stat().st_size < 100_000
