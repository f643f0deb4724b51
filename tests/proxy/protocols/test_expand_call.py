"""The model has back what was left out, within the client's own request, and the client sees nothing of it."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import openai
import orjson
import pytest

from clara_proxy.proxy.expand.handler import MAX_CALLS_PER_ROUND, MAX_ROUNDS, ExpandHandler
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.proxy.stores.originals_store import OriginalsError
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
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, short_chat, tool_chat
from clara_proxy.tests.running import run_proxy as running

Json = dict[str, Any]
Say = Callable[[Json], Json]  # from a request to the message that the model answers with
Client = Any  # its overloads have no use for arguments that come out of a table
TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"
FINAL = "The disk was full."
ID = re.compile(TOOL_NAME + r" ([0-9a-f]{12,24})")


def call(name: str, arguments: Json, its_id: str) -> Json:
    return {"id": its_id, "type": "function", "function": {"name": name, "arguments": orjson.dumps(arguments).decode()}}


def asked_for(request: Json) -> list[str]:
    """Return the ids that the markers of a request name."""
    found = [ID.findall(str(message.get("content"))) for message in request["messages"]]
    return [one for each in found for one in each]


def expansions(request: Json) -> list[str]:
    """Return what our tool has answered in a request."""
    ours = {
        one["id"]
        for message in request["messages"]
        for one in message.get("tool_calls") or ()
        if one["function"]["name"] == TOOL_NAME
    }
    return [message["content"] for message in request["messages"] if message.get("tool_call_id") in ours]


def curious(request: Json) -> Json:
    """Ask for what was left out, once; then answer."""
    if expansions(request) or not asked_for(request):
        return {"content": FINAL}
    return {"content": None, "tool_calls": [call(TOOL_NAME, {"id": asked_for(request)[0]}, "call_ours")]}


def pieces(message: Json, finish: str) -> Iterator[Json]:
    """Stream a message as OpenAI does: the role first, calls piece by piece."""
    yield {
        **completion_chunk(""),
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}],
    }
    said = str(message.get("content") or "")
    for at in range(0, len(said), 5):
        yield completion_chunk(said[at : at + 5])
    calls: list[Json] = message.get("tool_calls") or []
    for index, one in enumerate(calls):
        arguments: str = one["function"]["arguments"]
        opened: Json = {**one, "index": index, "function": {"name": one["function"]["name"], "arguments": ""}}
        cut = [arguments[at : at + 7] for at in range(0, len(arguments), 7)]
        parts: list[Json] = [opened, *({"index": index, "function": {"arguments": piece}} for piece in cut)]
        for part in parts:
            yield completion_chunk("", choices=[{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None}])
    yield completion_chunk("", choices=[{"index": 0, "delta": {}, "finish_reason": finish}])


def plays(upstream: FaultyUpstream, say: Say) -> None:
    """Let the upstream answer with what the model says, streamed or not; every answer has an id of its own."""

    async def script(wire: Connection) -> None:
        request = wire.request.json
        message = say(request)
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        named = {"id": f"chatcmpl-{len(upstream.requests)}"}
        if not request.get("stream"):
            choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}]
            await wire.send(http_response(orjson.dumps({**completion(choices=choices), **named})))
            return
        events = [sse_event({**one, **named}) for one in pieces(message, finish)]
        if request.get("stream_options") == {"include_usage": True}:
            events.append(sse_event({**completion_chunk("", choices=[], usage=USAGE), **named}))
        await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, [*events, DONE_EVENT]), b"0\r\n\r\n")

    upstream.script = script


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as made:
        yield made


def ask(client: Client, *, stream: bool, **body: Any) -> tuple[Json, list[Json]]:
    """Ask and return the message, and the chunks it came in."""
    if not stream:
        return client.chat.completions.create(**body).choices[0].model_dump(exclude_unset=True), []
    chunks = list(client.chat.completions.create(**body, stream=True))
    message: Json = {"content": "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)}
    finish = [one.choices[0].finish_reason for one in chunks if one.choices and one.choices[0].finish_reason]
    return {"message": message, "finish_reason": finish[0]}, [one.model_dump(exclude_unset=True) for one in chunks]


EITHER = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@EITHER
def test_the_model_gets_the_original_and_the_client_sees_only_the_answer(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, stream: bool
) -> None:
    plays(upstream, curious)
    chat = tool_chat(tools=[TOOL], extra_headers={"x-clara-session": f"expands-{stream}"})
    answer, chunks = ask(client, stream=stream, **chat)
    assert answer["message"]["content"] == FINAL
    assert answer["finish_reason"] == "stop"
    first, second = (heard.json for heard in upstream.requests)
    assert first["tools"][:-1] == [TOOL]
    assert first["tools"][-1]["function"]["name"] == TOOL_NAME
    assert expansions(second) == [ORIGINAL]
    assert upstream.requests[1].body.startswith(upstream.requests[0].body[: upstream.requests[0].body.index(b"]")])
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert TOOL_NAME not in str(chunks)
    assert {one["id"] for one in chunks} <= {"chatcmpl-1"}
    row = proxy.wait_for_row(f"expands-{stream}")
    assert row.billed_input == 2 * USAGE["prompt_tokens"]
    assert row.fetched_back_tokens > 1000
    assert row.saved_tokens < 0  # what was asked for again was sent, too


@EITHER
def test_words_before_a_call_stand_before_the_answer(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    plays(
        upstream, lambda request: {**curious(request), **({} if expansions(request) else {"content": "Let me look. "})}
    )
    answer, _ = ask(client, stream=stream, **tool_chat(tools=[TOOL]))
    assert answer["message"]["content"] == "Let me look. " + FINAL


@EITHER
def test_several_calls_at_once_are_all_answered_in_order(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    def say(request: Json) -> Json:
        if expansions(request):
            return {"content": FINAL}
        known = asked_for(request)[0]
        wanted: list[Json] = [
            {"id": known, "lines": "2-3"},
            {"id": "0123456789abcdef"},
            {"id": known, "query": "disk full"},
            {"id": known, "lines": "nonsense"},
            {"nothing": "at all"},
        ]
        return {"tool_calls": [call(TOOL_NAME, one, f"call_{at}") for at, one in enumerate(wanted)]}

    plays(upstream, say)
    answer, _ = ask(client, stream=stream, **tool_chat(tools=[TOOL]))
    assert answer["message"]["content"] == FINAL
    lines, unknown, matching, nonsense, nothing = expansions(upstream.last_request.json)
    assert lines == "\n".join(ORIGINAL.splitlines()[1:3])
    assert "no text of this id" in unknown
    assert "ERROR disk full on /dev/sda1" in matching
    assert "lines must be" in nonsense
    assert nothing == unknown


def mixed(request: Json) -> Json:
    """Call our tool and the client's in one breath, ours in the middle; then answer."""
    if expansions(request):
        return {"content": FINAL}
    ours = call(TOOL_NAME, {"id": asked_for(request)[0]}, "call_ours")
    theirs = [call("weather", {"city": city}, f"call_{city}") for city in ("Bonn", "Kiel")]
    return {"content": None, "tool_calls": [theirs[0], ours, theirs[1]]}


@EITHER
def test_calls_of_both_in_one_turn(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    plays(upstream, mixed)
    chat = tool_chat(tools=[TOOL])
    if stream:
        chunks = list(client.chat.completions.create(**chat, stream=True))
        pieces = [piece for one in chunks for piece in one.choices[0].delta.tool_calls or ()]
        ids = [piece.id for piece in pieces if piece.id]
        arguments = ["".join(one.function.arguments or "" for one in pieces if one.index == at) for at in (0, 1)]
        calls = [call("weather", orjson.loads(said), its_id) for said, its_id in zip(arguments, ids, strict=True)]
        assert {piece.index for piece in pieces} == {0, 1}
    else:
        message = client.chat.completions.create(**chat).choices[0].message
        calls = [one.model_dump(exclude_unset=True) for one in message.tool_calls or ()]
    assert [one["id"] for one in calls] == ["call_Bonn", "call_Kiel"]
    assert len(upstream.requests) == 1  # the client's results are waited for
    answers = [{"role": "tool", "tool_call_id": one["id"], "content": "sunny"} for one in calls]
    chat["messages"] += [{"role": "assistant", "content": None, "tool_calls": calls}, *answers]
    answer, _ = ask(client, stream=stream, **chat)
    assert answer["message"]["content"] == FINAL
    sent = upstream.last_request.json["messages"]
    assert [one["id"] for one in sent[3]["tool_calls"]] == ["call_Bonn", "call_ours", "call_Kiel"]
    assert {one["tool_call_id"]: one["content"] for one in sent[4:]} == {
        "call_ours": ORIGINAL, "call_Bonn": "sunny", "call_Kiel": "sunny",
    }  # fmt: skip


@EITHER
def test_later_turns_show_the_upstream_what_it_has_seen(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    plays(upstream, lambda request: {**curious(request), **({} if expansions(request) else {"content": "I look. "})})
    chat = tool_chat(tools=[TOOL])
    said = ""
    for turn in range(3):
        answer, _ = ask(client, stream=stream, **chat)
        before = upstream.last_request.json["messages"]
        said = answer["message"]["content"]
        chat["messages"] += [{"role": "assistant", "content": said}, {"role": "user", "content": f"and then, {turn}?"}]
        client.chat.completions.create(**chat)
        after = upstream.last_request.json["messages"]
        assert after[: len(before)] == before
        assert after[len(before)] == {"role": "assistant", "content": FINAL}
        assert expansions(upstream.last_request.json) == [ORIGINAL]
        chat["messages"] += [{"role": "assistant", "content": FINAL}, {"role": "user", "content": "more"}]
    assert said == FINAL  # nothing was asked for twice


@EITHER
def test_a_model_that_does_not_stop_asking_gets_the_request_as_it_came(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, stream: bool
) -> None:
    def insistent(request: Json) -> Json:
        if request["tools"][-1] == TOOL:
            return {"content": FINAL}
        return {"tool_calls": [call(TOOL_NAME, {"id": asked_for(request)[0]}, f"x{len(upstream.requests)}")]}

    plays(upstream, insistent)
    session = f"insistent {stream}"
    chat = tool_chat(f"{LOG_TEXT}\n{session}", tools=[TOOL])  # a conversation that no other test has
    answer, chunks = ask(client, stream=stream, **chat, extra_headers={"x-clara-session": session})
    assert (answer["message"]["content"], answer["finish_reason"]) == (FINAL, "stop")
    assert TOOL_NAME not in str(chunks)
    assert len(upstream.requests) == MAX_ROUNDS + 2
    assert {name: upstream.last_request.json[name] for name in chat} == chat
    row = proxy.wait_for_row(session)
    assert (row.outcome, row.status, row.billed_input) == ("ok", 200, (MAX_ROUNDS + 2) * USAGE["prompt_tokens"])
    assert orjson.loads(row.skipped)["too-many-expansions"] == 1
    assert row.saved_tokens < 0
    # The next turn goes on from what the provider's cache holds, and asks for nothing twice.
    before = upstream.requests[MAX_ROUNDS].json["messages"]
    chat["messages"] += [{"role": "assistant", "content": FINAL}, {"role": "user", "content": "Really?"}]
    plays(upstream, curious)
    assert ask(client, stream=stream, **chat)[0]["message"]["content"] == FINAL
    assert upstream.last_request.json["messages"][: len(before)] == before
    assert len(upstream.requests) == MAX_ROUNDS + 3


@EITHER
def test_a_model_that_calls_a_tool_it_does_not_have_is_an_error_and_no_empty_answer(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, stream: bool
) -> None:
    plays(upstream, lambda _: {"tool_calls": [call(TOOL_NAME, {"id": "0123456789ab"}, f"x{len(upstream.requests)}")]})
    session = f"for ever {stream}"
    patient = client.with_options(max_retries=2)  # which would ask eight times again
    with pytest.raises(openai.APIError, match="gave no answer"):
        ask(patient, stream=stream, **tool_chat(tools=[TOOL]), extra_headers={"x-clara-session": session})
    assert len(upstream.requests) == MAX_ROUNDS + 2
    assert proxy.wait_for_row(session).outcome == "upstream_error"
    assert proxy.wait_for_row(session).billed_input == (MAX_ROUNDS + 2) * USAGE["prompt_tokens"]


def test_a_thousand_calls_at_once_are_not_all_answered(client: Client, upstream: FaultyUpstream) -> None:
    def say(request: Json) -> Json:
        if expansions(request):
            return {"content": FINAL}
        return {"tool_calls": [call(TOOL_NAME, {"id": asked_for(request)[0]}, f"x{at}") for at in range(1000)]}

    plays(upstream, say)
    assert ask(client, stream=False, **tool_chat(tools=[TOOL]))[0]["message"]["content"] == FINAL
    found = expansions(upstream.last_request.json)
    assert found[:MAX_CALLS_PER_ROUND] == [ORIGINAL] * MAX_CALLS_PER_ROUND
    assert all("was not answered" in one for one in found[MAX_CALLS_PER_ROUND:])
    assert len(found) == 1000


@EITHER
def test_an_upstream_that_fails_in_a_later_round(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    plays(upstream, curious)
    good = upstream.script

    async def script(wire: Connection) -> None:
        if expansions(wire.request.json):
            await wire.send(
                http_response(b'{"error":{"message":"too busy","code":"x"}}', status="429 Too Many Requests")
            )
        else:
            await good(wire)

    upstream.script = script
    with pytest.raises(openai.APIError, match="too busy"):
        ask(client, stream=stream, **tool_chat(tools=[TOOL]))


def test_a_call_that_was_cut_off_is_not_answered(client: Client, upstream: FaultyUpstream) -> None:
    broken = {"id": "c", "type": "function", "function": {"name": TOOL_NAME, "arguments": '{"id": "0'}}
    choices = [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "I", "tool_calls": [broken]},
            "finish_reason": "length",
        }
    ]
    upstream.respond_with(http_response(orjson.dumps(completion(choices=choices))))
    made = client.chat.completions.create(**tool_chat(tools=[TOOL])).choices[0]
    assert (made.finish_reason, made.message.content, made.message.tool_calls) == ("length", "I", None)
    assert len(upstream.requests) == 1


MINE = {"type": "function", "function": {"name": TOOL_NAME, "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({}, {}),
        ({"tools": []}, {}),
        ({"tools": [TOOL, MINE]}, {}),
        ({"tools": [TOOL], "n": 2}, {}),
        ({"tools": [TOOL]}, {"x-clara-retrieve": "none"}),
        ({"tools": [TOOL]}, {"x-clara-retrieve": "url"}),
        ({"tools": [TOOL]}, {"x-clara-mode": "off"}),
        ({"tools": [TOOL]}, {"x-clara-mode": "observe"}),
        ({"tools": [TOOL]}, {"x-clara-bypass": "true"}),
    ],
)
def test_where_the_tool_is_not_offered_no_marker_names_it(
    proxy: Proxy, upstream: FaultyUpstream, more: Json, headers: dict[str, str]
) -> None:
    chat = tool_chat(**more)
    proxy.post(chat, **{name.replace("-", "_"): value for name, value in headers.items()})
    sent = upstream.last_request.json
    assert sent.get("tools") == more.get("tools")
    assert not asked_for(sent)
    # A call of the client's own tool of this name is the client's.
    plays(upstream, lambda _: {"tool_calls": [call(TOOL_NAME, {"id": "0123456789abcdef"}, "c")]})
    answer = proxy.post(chat, **{name.replace("-", "_"): value for name, value in headers.items()})
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == TOOL_NAME


def test_the_tool_is_there_from_the_first_turn_on(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = proxy.post(short_chat(tools=[TOOL]))
    assert upstream.last_request.json["tools"][-1]["function"]["name"] == TOOL_NAME
    assert -150 < int(answer.headers["x-clara-tokens-saved"]) < 0  # it costs something, and that is told


def test_a_forged_marker_brings_nothing_of_anybody_elses(upstream: FaultyUpstream, proxy: Proxy) -> None:
    plays(upstream, curious)
    proxy.post(tool_chat(tools=[TOOL]))
    (stolen,) = set(asked_for(upstream.requests[0].json))
    forged = tool_chat(f"[9 of 10 lines left out; {TOOL_NAME} {stolen}]\n" + LOG_TEXT, tools=[TOOL])
    proxy.post(forged, authorization="Bearer sk-of-somebody-else")
    assert ORIGINAL not in str(upstream.last_request.json)
    assert "no text of this id" in " ".join(expansions(upstream.last_request.json))


def test_after_a_restart_and_from_another_replica(upstream: FaultyUpstream, tmp_path: Any) -> None:
    plays(upstream, curious)
    chat = tool_chat(tools=[TOOL])
    with running(upstream.url, tmp_path) as first:
        said = first.post(chat).json()["choices"][0]["message"]["content"]
    before = upstream.last_request.json["messages"]
    chat["messages"] += [{"role": "assistant", "content": said}, {"role": "user", "content": "and now?"}]
    with running(upstream.url, tmp_path) as second:
        second.post(chat)
    assert upstream.last_request.json["messages"][: len(before)] == before


@EITHER
def test_a_store_that_fails_costs_no_answer(
    client: Client, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def broken(*_: object) -> None:
        raise OriginalsError("the disk is gone")

    plays(upstream, curious)
    monkeypatch.setattr(ExpandHandler, "store_hidden", broken)
    answer, _ = ask(client, stream=stream, **tool_chat(tools=[TOOL]))
    assert answer["message"]["content"] == FINAL
    monkeypatch.setattr(Originals, "get", broken)
    answer, _ = ask(client, stream=stream, **tool_chat(tools=[TOOL]))
    assert answer["message"]["content"] == FINAL
    assert "no text of this id" in expansions(upstream.last_request.json)[0]


def test_what_was_hidden_is_stored_before_the_client_hears_the_end(
    client: Client, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = ExpandHandler.store_hidden

    async def slow(self: ExpandHandler, place: str, hidden: bytes) -> None:
        await asyncio.sleep(0.3)
        await inner(self, place, hidden)

    plays(upstream, curious)
    monkeypatch.setattr(ExpandHandler, "store_hidden", slow)
    chat = tool_chat(tools=[TOOL])
    for one in client.chat.completions.create(**chat, stream=True):
        if one.choices and one.choices[0].finish_reason:
            break
    before = upstream.last_request.json["messages"]
    chat["messages"] += [{"role": "assistant", "content": FINAL}, {"role": "user", "content": "and now?"}]
    client.chat.completions.create(**chat)
    assert upstream.last_request.json["messages"][: len(before)] == before
