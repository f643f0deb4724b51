"""The model has back what was left out, within one request of Anthropic's, and the real client sees nothing of it."""

import json
from collections.abc import Callable, Iterator
from itertools import count, groupby
from typing import Any

import anthropic
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.expand.handler import MAX_ROUNDS
from clara_proxy.proxy.protocols import messages, sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, http_response
from clara_proxy.tests.proxy.inprocess import JSON_STYLES, JsonStyle
from clara_proxy.tests.proxy.protocols.messages_upstream import (
    ALL_INPUT,
    ID,
    PING,
    USAGE,
    Json,
    Say,
    asked_for,
    blocks,
    events,
    expansions,
    message,
    plays,
    result,
    text,
    thinking,
    use,
    written,
)
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, TIMEOUT, Proxy

WEATHER: Json = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
LOGS: Json = {"name": "logs", "input_schema": {"type": "object", "properties": {}}}
ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"
SHORTER = ORIGINAL[len(ORIGINAL) * 3 // 4 :]  # so that no epoch ends
FINAL = "The disk was full."
OFFERED = messages.ADAPTER.build_expand_tool({"tools": [LOGS]})


def conversation(**more: Any) -> Json:
    """Return a request whose tool answer can be made shorter."""
    return {
        "model": "claude-x",
        "max_tokens": 999,
        "tools": [LOGS, WEATHER],
        "messages": [
            {"role": "user", "content": "why did it fail?"},
            {"role": "assistant", "content": [use("logs", {}, "toolu_logs")]},
            {"role": "user", "content": [result("toolu_logs", ORIGINAL)]},
        ],
        **more,
    }


def curious(*before: Json, then: list[Json]) -> Say:
    """Ask for what was left out, once, after saying something; then say something else."""

    def say(request: Json) -> list[Json]:
        if expansions(request) or not asked_for(request):
            return then
        return [*before, use(TOOL_NAME, {"id": asked_for(request)[0]}, "toolu_ours")]

    return say


@pytest.fixture(scope="module")
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=proxy.url, api_key=CLIENT_KEY, max_retries=0, timeout=TIMEOUT) as made:
        yield made


def ask(client: Any, *, stream: bool, **body: Any) -> tuple[Json, list[Json]]:
    """Ask and return the message as the client has it, and the events it came in."""
    if not stream:
        return client.messages.create(**body).model_dump(exclude_unset=True), []
    told = [one.model_dump(exclude_unset=True) for one in client.messages.create(**body, stream=True)]
    with client.messages.stream(**body) as streaming:
        final = streaming.get_final_message().model_dump(exclude_unset=True)
    return final, told


def directly(
    client: anthropic.Anthropic, upstream: FaultyUpstream, said: list[Json], *, stream: bool
) -> tuple[Json, list[Json]]:
    """Return what a client has of an upstream that says it all at once, with no proxy before it."""
    plays(upstream, lambda _: said)
    return ask(client.with_options(base_url=upstream.url), stream=stream, **conversation())


def bare(told: Any) -> Any:
    """Leave out what two runs may differ in: usages, and the ids of messages."""
    held: Any = told
    if isinstance(told, list):
        return [bare(one) for one in held]
    if not isinstance(told, dict):
        return told
    noisy = ("usage", "id") if held.get("type") == "message" else ("usage",)
    return {name: bare(value) for name, value in held.items() if name not in noisy}


EITHER = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
REPLIES: dict[str, tuple[list[Json], list[Json]]] = {
    "nothing else": ([], [text(FINAL)]),
    "words": ([text("Let me look.")], [text(FINAL)]),
    "thoughts": ([thinking("hm")], [text(FINAL)]),
    "thoughts and words, twice": ([thinking("hm"), text("Let me look.")], [thinking("ah"), text(FINAL)]),
    "a call for the client": ([thinking("hm")], [text("One more."), use("weather", {"city": "Rome"}, "toolu_c")]),
    "thoughts nobody may read": ([{"type": "redacted_thinking", "data": "gAAA"}], [text(FINAL)]),
    "a search of the provider's": (
        [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "disk full"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        ],
        [text(FINAL)],
    ),
}


@EITHER
@pytest.mark.parametrize(("before", "then"), REPLIES.values(), ids=REPLIES)
def test_the_client_sees_what_it_would_have_seen_of_one_reply(
    client: anthropic.Anthropic, upstream: FaultyUpstream, before: list[Json], then: list[Json], stream: bool
) -> None:
    plays(upstream, curious(*before, then=then))
    answer, told = ask(client, stream=stream, **conversation())
    first, second = (heard.json for heard in upstream.requests[:2])
    expected, expected_events = directly(client, upstream, [*before, *then], stream=stream)
    assert bare(answer) == bare(expected)
    assert bare(told) == bare(expected_events)
    assert answer["id"] in ("msg_1", "msg_3")  # the first round's, of the only or of the second request
    assert TOOL_NAME not in str(answer) + str(told)
    assert first["tools"] == [LOGS, WEATHER, OFFERED]
    assert expansions(first) == []
    assert expansions(second) == [ORIGINAL]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["messages"][-2] == {"role": "assistant", "content": [*before, blocks(second, "tool_use")[-1]]}
    assert blocks(second, "tool_use")[-1] == use(TOOL_NAME, {"id": asked_for(first)[0]}, "toolu_ours")


@EITHER
def test_a_text_that_says_nothing_is_not_sent_back(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool
) -> None:
    plays(upstream, curious(text("\n\n"), then=[text(FINAL)]))
    body = conversation()
    answer, _ = ask(client, stream=stream, **body)
    assert answer["content"] == [text("\n\n"), text(FINAL)]
    assert [block["type"] for block in upstream.last_request.json["messages"][-2]["content"]] == ["tool_use"]
    sent_before = upstream.last_request.json["messages"]
    body["messages"] += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Sure?"}]
    client.messages.create(**body)
    assert upstream.last_request.json["messages"][: len(sent_before)] == sent_before
    assert upstream.last_request.json["messages"][len(sent_before)]["content"] == [text(FINAL)]


@EITHER
def test_usage_is_the_sum_and_the_ledger_counts_the_expansion(
    client: anthropic.Anthropic, upstream: FaultyUpstream, proxy: Proxy, stream: bool
) -> None:
    plays(upstream, curious(then=[text(FINAL)]))
    label = f"messages-usage-{stream}"
    body = conversation(extra_headers={"x-clara-session": label})
    answer, _ = ask(client, stream=stream, **body)
    assert answer["usage"] == {name: 2 * once for name, once in USAGE.items()}
    row = proxy.wait_for_row(label)
    assert (row.protocol, row.outcome, row.streamed) == ("messages", "ok", stream)
    assert row.billed_input == 2 * ALL_INPUT
    assert (row.billed_output, row.billed_cache_read, row.billed_cache_write) == (10, 40, 6)
    assert row.fetched_back_tokens > 1000
    assert row.saved_tokens < 0  # what was asked for again was sent, too


@EITHER
def test_parallel_calls_are_all_answered_and_one_may_be_unknown(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool
) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request):
            return [text(FINAL)]
        known = asked_for(request)[0]
        asked = [{"id": known, "lines": "1-2"}, {"id": "0123456789abcdef"}, {"id": known, "query": "disk full"}, {}]
        return [use(TOOL_NAME, one, f"toolu_{at}") for at, one in enumerate(asked)]

    plays(upstream, say)
    answer, _ = ask(client, stream=stream, **conversation())
    assert answer["content"] == [text(FINAL)]
    lines, unknown, found, nothing = expansions(upstream.requests[1].json)
    assert lines == "\n".join(ORIGINAL.splitlines()[:2])
    assert "no text of this id" in unknown == nothing
    assert "disk full on /dev/sda1" in found
    assert len(found) < len(ORIGINAL) / 10
    ids = [block["tool_use_id"] for block in upstream.requests[1].json["messages"][-1]["content"]]
    assert ids == ["toolu_0", "toolu_1", "toolu_2", "toolu_3"]


MIXED = [
    thinking("both"),
    text("Both."),
    use("weather", {"city": "Rome"}, "toolu_a"),
    use(TOOL_NAME, {"id": ""}, "toolu_ours"),
    use("weather", {"city": "Oslo"}, "toolu_b"),
]


@EITHER
@pytest.mark.parametrize("kept", [True, False], ids=["as it came", "without thoughts"])
def test_a_call_beside_the_clients_own_is_put_back_when_the_client_returns(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool, kept: bool
) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request):
            return [text(FINAL)]
        return [
            {**one, "input": {"id": asked_for(request)[0]}} if one.get("name") == TOOL_NAME else one for one in MIXED
        ]

    plays(upstream, say)
    body = conversation()
    answer, told = ask(client, stream=stream, **body)
    assert answer["content"] == [one for one in MIXED if one.get("name") != TOOL_NAME]
    assert answer["stop_reason"] == "tool_use"
    assert TOOL_NAME not in str(told)
    back = [one for one in answer["content"] if kept or one["type"] != "thinking"]
    results = [result("toolu_a", "sunny"), result("toolu_b", [text("rain")], is_error=True), text("So?")]
    body["messages"] += [{"role": "assistant", "content": back}, {"role": "user", "content": results}]
    sent_before = upstream.last_request.json["messages"]
    final, _ = ask(client, stream=stream, **body)
    assert final["content"] == [text(FINAL)]
    sent = upstream.last_request.json["messages"]
    assert sent[: len(sent_before)] == sent_before
    ours = {**MIXED[3], "input": {"id": asked_for({"messages": sent_before})[0]}}
    as_said = [*MIXED[:3], ours, MIXED[4]]
    assert sent[-2]["content"] == [one for one in as_said if kept or one["type"] != "thinking"]
    assert sent[-1]["content"] == [result("toolu_ours", ORIGINAL), *results]


@EITHER
def test_a_model_that_does_not_stop_asking_gets_the_request_as_it_came(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool
) -> None:
    def insistent(request: Json) -> list[Json]:
        if OFFERED not in request["tools"]:
            return [text(FINAL)]
        return [text("again "), use(TOOL_NAME, {"id": asked_for(request)[0]}, f"toolu_{len(expansions(request))}")]

    plays(upstream, insistent)
    body = conversation()
    answer, told = ask(client, stream=stream, **body)
    assert len(upstream.requests) == (MAX_ROUNDS + 2) * (2 if stream else 1)
    assert {name: upstream.last_request.json[name] for name in body} == body
    assert answer["content"] == [*[text("again ")] * (MAX_ROUNDS + 1), text(FINAL)]
    assert answer["stop_reason"] == "end_turn"
    assert answer["usage"]["output_tokens"] == (MAX_ROUNDS + 2) * USAGE["output_tokens"]
    assert TOOL_NAME not in str(answer) + str(told)
    if stream:
        assert [one["type"] for one in told][-2:] == ["message_delta", "message_stop"]
        assert [one["type"] for one in told].count("message_stop") == 1
    # and the next turn goes on from what the provider's cache holds
    sent_before = upstream.requests[MAX_ROUNDS].json["messages"]
    body["messages"] += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Well?"}]
    plays(upstream, lambda _: [text(FINAL)])
    ask(client, stream=stream, **body)
    sent = upstream.last_request.json["messages"]
    assert sent[: len(sent_before)] == sent_before


@EITHER
def test_a_model_that_says_something_and_calls_for_ever_has_said_that(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool
) -> None:
    calls = count()
    plays(upstream, lambda _: [text("again "), use(TOOL_NAME, {"id": "0123456789ab"}, f"toolu_{next(calls)}")])
    body = conversation()
    answer, told = ask(client, stream=stream, **body)
    assert answer["content"] == [text("again ")] * (MAX_ROUNDS + 2)
    assert answer["stop_reason"] == "end_turn"
    if stream:
        assert [one["type"] for one in told][-2:] == ["message_delta", "message_stop"]
    # the last call, which nobody has answered in this turn, does not trouble the next one
    body["messages"] += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Well?"}]
    plays(upstream, lambda _: [text(FINAL)])
    assert ask(client, stream=stream, **body)[0]["content"] == [text(FINAL)]
    ids = [block["id"] for block in blocks(upstream.last_request.json, "tool_use")]
    assert ids == [block["tool_use_id"] for block in blocks(upstream.last_request.json, "tool_result")]


@EITHER
def test_a_model_that_calls_a_tool_it_does_not_have_is_an_error_and_no_empty_answer(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool
) -> None:
    plays(upstream, lambda _: [use(TOOL_NAME, {"id": "0123456789ab"}, f"toolu_{len(upstream.requests)}")])
    with pytest.raises(anthropic.APIError, match="gave no answer"):
        ask(client.with_options(max_retries=2), stream=stream, **conversation())
    assert len(upstream.requests) == MAX_ROUNDS + 2


@EITHER
def test_a_call_cut_off_at_the_limit_is_none(
    client: anthropic.Anthropic, upstream: FaultyUpstream, stream: bool
) -> None:
    said = [text("Let me"), use(TOOL_NAME, {"id": "0123"}, "toolu_ours")]
    plays(upstream, lambda _: said, stop=lambda _: "max_tokens")
    answer, told = ask(client, stream=stream, **conversation())
    assert len(upstream.requests) == (2 if stream else 1)
    assert (answer["content"], answer["stop_reason"]) == ([text("Let me")], "max_tokens")
    assert TOOL_NAME not in str(answer) + str(told)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_arguments_that_are_no_json_are_answered_too(
    client: anthropic.Anthropic, upstream: FaultyUpstream, lost: int
) -> None:
    async def script(wire: Connection) -> None:
        asked = len(upstream.requests) == 1
        reply = message([use(TOOL_NAME, {"id": "0123456789ab"}, "toolu_ours")] if asked else [text(FINAL)])
        told = list(events(reply))
        told = told[: -3 - lost] + told[-3:] if asked else told
        await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, map(written, told)), b"0\r\n\r\n")

    upstream.script = script
    with client.messages.stream(**conversation()) as streaming:
        assert streaming.get_final_message().content[0].to_dict() == text(FINAL)
    assert "no text of this id" in expansions(upstream.last_request.json)[0]
    assert blocks(upstream.last_request.json, "tool_use")[-1]["input"] == {}


FAILING = b'{\n  "type": "error",\n  "error": {"type": "overloaded_error", "message": "too much"}\n}'


def fails_later(upstream: FaultyUpstream, before: list[Json]) -> None:
    """Let the model ask once, and then the upstream refuse."""

    async def script(wire: Connection) -> None:
        if len(upstream.requests) > 1:
            await wire.send(http_response(FAILING, status="529 Overloaded"))
            return
        reply = message([*before, use(TOOL_NAME, {"id": asked_for(wire.request.json)[0]}, "toolu_ours")])
        if wire.request.json.get("stream"):
            await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, map(written, events(reply))), b"0\r\n\r\n")
        else:
            await wire.send(http_response(orjson.dumps(reply)))

    upstream.script = script


def test_an_error_in_a_later_round_is_the_replys(
    client: anthropic.Anthropic, upstream: FaultyUpstream, proxy: Proxy
) -> None:
    fails_later(upstream, [])
    with pytest.raises(anthropic.APIStatusError, match="too much") as caught:
        client.messages.create(**conversation(extra_headers={"x-clara-session": "messages-late-error"}))
    assert caught.value.status_code == 529
    assert proxy.wait_for_row("messages-late-error").outcome == "upstream_error"


def test_an_error_in_a_later_round_ends_the_stream(client: anthropic.Anthropic, upstream: FaultyUpstream) -> None:
    fails_later(upstream, [text("Let me look.")])
    heard: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError, match="too much"),
        client.messages.stream(**conversation()) as streaming,
    ):
        heard.extend(streaming.text_stream)
    assert "".join(heard) == "Let me look."


def test_a_stream_that_breaks_off_ends_with_an_error(client: anthropic.Anthropic, upstream: FaultyUpstream) -> None:
    told = [written(event) for event in events(message([text("Let me look.")]))]
    upstream.stream_events(*told[:4], ending=lambda wire: wire.reset())
    with (
        pytest.raises(anthropic.APIStatusError, match="the upstream disconnected") as caught,
        client.messages.stream(**conversation()) as streaming,
    ):
        streaming.until_done()
    said: Any = caught.value.body
    assert said["error"]["type"] == "api_error"


CHOICES: dict[str, Json] = {
    "auto": {"type": "auto", "disable_parallel_tool_use": True},
    "any": {"type": "any"},
    "none": {"type": "none"},
    "the client's": {"type": "tool", "name": "weather"},
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_choice_of_tools_goes_up_as_it_came_and_the_tools_stay_the_same(
    client: anthropic.Anthropic, upstream: FaultyUpstream, choice: Any
) -> None:
    plays(upstream, lambda _: [text(FINAL)])
    client.messages.create(**conversation(tool_choice=choice))
    assert upstream.last_request.json["tool_choice"] == choice
    assert upstream.last_request.json["tools"] == [LOGS, WEATHER, OFFERED]


OWN: Json = {"name": TOOL_NAME, "input_schema": {"type": "object"}}
UNOFFERED: dict[str, Any] = {
    "no tools": None,
    "an empty list": [],
    "a tool of our name": [LOGS, OWN],
    "a container that a further request would not find": [LOGS, {"type": "code_execution_20250825", "name": "code"}],
}


@EITHER
@pytest.mark.parametrize("tools", UNOFFERED.values(), ids=UNOFFERED)
def test_where_it_cannot_be_offered_nothing_is(
    client: anthropic.Anthropic, upstream: FaultyUpstream, tools: Any, stream: bool
) -> None:
    said = [use(TOOL_NAME, {"id": "mine"}, "toolu_own")] if tools else [text(FINAL)]
    plays(upstream, lambda _: said)
    body = conversation(tools=tools)
    if tools is None:
        del body["tools"]
    answer, _ = ask(client, stream=stream, **body)
    assert upstream.last_request.json.get("tools") == tools
    assert answer["content"] == said
    assert ID.search(upstream.last_request.body.decode()) is None  # no marker promises what cannot be kept


@pytest.mark.parametrize("asked", [{"x-clara-mode": "off"}, {"x-clara-bypass": "true"}, {"x-clara-retrieve": "none"}])
def test_who_wants_none_of_it_gets_none_of_it(
    client: anthropic.Anthropic, upstream: FaultyUpstream, asked: dict[str, str]
) -> None:
    plays(upstream, lambda _: [text(FINAL)])
    client.messages.create(**conversation(extra_headers=asked))
    assert upstream.last_request.json["tools"] == [LOGS, WEATHER]


def test_events_that_do_not_concern_us_are_the_bytes_that_came(proxy: Proxy, upstream: FaultyUpstream) -> None:
    said = [thinking("hm"), text(FINAL), use("weather", {"city": "Rome"}, "toolu_c")]
    plays(upstream, lambda _: said)
    came = proxy.post(conversation(stream=True), "/v1/messages").content
    assert came.count(PING) == 1
    assert came.replace(PING, b"") == b"".join(map(written, events(message(said))))


def test_what_is_hidden_is_counted_with_the_conversation(
    client: anthropic.Anthropic, upstream: FaultyUpstream, proxy: Proxy
) -> None:
    plays(upstream, curious(thinking("hm"), then=[text(FINAL)]))
    body = conversation()
    answer, _ = ask(client, stream=False, **body)
    body["messages"] += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Sure?"}]
    client.messages.create(**body)
    sent = upstream.last_request.json
    upstream.respond_with(http_response(b'{"input_tokens":4711}'))
    counting = {name: body[name] for name in ("model", "messages", "tools")}
    label = {"x-clara-session": "messages-counting"}
    assert client.messages.count_tokens(**counting, extra_headers=label).input_tokens == 4711
    assert upstream.last_request.request_line == b"POST /v1/messages/count_tokens HTTP/1.1"
    assert upstream.last_request.json == {name: sent[name] for name in counting}
    row = proxy.wait_for_row("messages-counting")
    assert (row.protocol, row.outcome, row.cost) == ("count_tokens", "served", 0.0)
    assert (row.tokens_received, row.tokens_sent, row.saved_tokens, row.saved_cost) == (0, 0, 0, None)


Way = Callable[[list[Json]], Any]
WAYS: dict[str, Way] = {
    "as it came": lambda content: content,
    "without thoughts": lambda content: [one for one in content if one["type"] != "thinking"],
    "as a plain text": lambda content: "".join(one.get("text", "") for one in content),
    "texts joined": lambda content: [
        *(one for one in content if one["type"] == "thinking"),
        text("".join(one.get("text", "") for one in content)),
    ],
    "with a breakpoint": lambda content: [*content[:-1], {**content[-1], "cache_control": {"type": "ephemeral"}}],
    "with fields of the client's": lambda content: [
        {**one, "citations": None} if one["type"] == "text" else one for one in content
    ],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_however_a_client_sends_a_reply_back_its_rounds_are_apart_again(
    client: anthropic.Anthropic, upstream: FaultyUpstream, way: Way
) -> None:
    plays(upstream, curious(thinking("hm"), text("Let me look. "), then=[thinking("ah"), text(FINAL)]))
    body = conversation()
    answer, _ = ask(client, stream=False, **body)
    sent_before = upstream.last_request.json["messages"]
    body["messages"] += [{"role": "assistant", "content": way(answer["content"])}, {"role": "user", "content": "Sure?"}]
    client.messages.create(**body)
    sent = upstream.last_request.json["messages"]
    assert sent[: len(sent_before)] == sent_before
    spoken, live = sent[len(sent_before) :]
    assert live == body["messages"][-1]
    assert spoken["role"] == "assistant"
    words = (
        spoken["content"] if isinstance(spoken["content"], str) else [one.get("text", "") for one in spoken["content"]]
    )
    assert "".join(words) == FINAL
    assert "signature of hm" not in str(spoken)


def test_a_reply_whose_last_round_said_nothing_is_not_made_an_empty_message(
    client: anthropic.Anthropic, upstream: FaultyUpstream
) -> None:
    plays(upstream, curious(text("The disk."), then=[]))
    body = conversation()
    answer, _ = ask(client, stream=False, **body)
    assert answer["content"] == [text("The disk.")]
    sent_before = upstream.last_request.json["messages"]
    body["messages"] += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Sure?"}]
    client.messages.create(**body)
    sent = upstream.last_request.json["messages"]
    assert sent == [*sent_before, *body["messages"][-2:]]


# law 1, whatever the model and the client do


class Model:
    """A model that says what is planned: it calls our tool beside the client's own or alone, and thinks in between."""

    def __init__(self, plans: list[list[str]]) -> None:
        self.said: list[list[Json]] = []
        self._plans = iter(plans)

    def __call__(self, request: Json) -> list[Json]:
        known = asked_for(request)
        number = len(self.said)
        made: list[Json] = []
        for at, kind in enumerate(next(self._plans, ["text"])):
            its_id = f"toolu_{number}_{at}"
            if kind == "ours":
                made.append(use(TOOL_NAME, {"id": known[at % len(known)] if known else "0123456789ab"}, its_id))
            elif kind == "call":
                made.append(use("logs", {"number": number}, its_id))
            else:
                made.append(thinking(f"hm {number}") if kind == "thinking" else text(f"said {number} {at}. "))
        self.said.append(made)
        return made


ATTEMPTS = count(1)


class Client:
    """A client that goes on with a conversation in its own way."""

    def __init__(self, way: Way, style: JsonStyle) -> None:
        self._way, self._style = way, style
        self.body = conversation()
        self.body["messages"][0]["content"] += f" This is attempt {next(ATTEMPTS)}."  # no two conversations are one

    def written(self, *, stream: bool) -> bytes:
        return self._style({**self.body, "stream": stream})

    def goes_on(self, content: list[Json]) -> None:
        calls = [block["id"] for block in content if block["type"] == "tool_use"]
        joined = content if calls else self._way(content)
        answers = [result(one, f"{one}\n{SHORTER}") for one in calls]
        live = [*answers, text("Go on.")] if len(self.body["messages"]) % 4 else answers
        self.body["messages"] += [{"role": "assistant", "content": joined}, {"role": "user", "content": live or "And?"}]


def accumulated(stream: bytes) -> list[Json]:
    """Put the blocks of a streamed message together, whose indexes must be in order and whose end must be there."""
    content: list[Json] = []
    partial = ""
    told = [sse.parse_data(one) for one in stream.replace(PING, b"").split(b"\n\n") if one]
    framing = [one["type"] for one in told if not one["type"].startswith("content_block")]
    assert framing == ["message_start", "message_delta", "message_stop"]
    for one in told:
        if one["type"] == "content_block_start":
            assert one["index"] == len(content)
            content.append(one["content_block"])
            partial = ""
        elif one["type"] == "content_block_delta":
            assert one["index"] == len(content) - 1
            for name in ("text", "thinking", "signature"):
                if name in one["delta"]:
                    content[-1][name] += one["delta"][name]
            partial += one["delta"].get("partial_json", "")
        elif one["type"] == "content_block_stop" and partial:
            content[-1]["input"] = orjson.loads(partial)
    return content


def raw_messages(body: bytes) -> list[str]:
    """Return the messages of a body, each in the very characters that were sent."""
    said = body.decode()
    at = said.index('"messages":') + len('"messages":')
    found: list[str] = []
    decoder = json.JSONDecoder()
    at = said.index("[", at) + 1
    while True:
        at += len(said[at:]) - len(said[at:].lstrip(", \n"))
        if said[at] == "]":
            return found
        _, end = decoder.raw_decode(said, at)
        found.append(said[at:end])
        at = end


OURS_ALONE = [["ours"], ["thinking", "text", "ours"], ["thinking", "ours", "ours"]]
BESIDE = [["call", "ours"], ["thinking", "text", "ours", "call"], ["ours", "call", "ours", "call"]]
PLAIN = [["text"], ["thinking", "text"], ["call"], ["thinking", "text", "call", "call"]]


def ends(planned: list[list[str]]) -> bool:
    """Say whether a model stops calling our tool before it gets the request as it came."""
    runs = groupby(planned, key=lambda said: said in OURS_ALONE)
    return all(len(list(run)) <= MAX_ROUNDS for ours, run in runs if ours)


plans = st.lists(st.sampled_from([*OURS_ALONE, *BESIDE, *PLAIN]), min_size=2, max_size=9).filter(ends)
WAY = st.sampled_from([WAYS["as it came"], WAYS["as it came"], *WAYS.values()])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans, WAY, st.sampled_from(JSON_STYLES), st.booleans())
def test_law_1_what_the_upstream_had_it_has_again(
    proxy: Proxy, upstream: FaultyUpstream, planned: list[list[str]], way: Way, style: JsonStyle, stream: bool
) -> None:
    upstream.reset()
    model, client = Model(planned), Client(way, style)
    plays(upstream, model)
    before: list[str] = []
    while len(model.said) < len(planned):
        since = len(upstream.requests)
        answered = proxy.post(client.written(stream=stream), "/v1/messages")
        assert answered.status_code == 200
        assert TOOL_NAME.encode() not in answered.content
        content = accumulated(answered.content) if stream else answered.json()["content"]
        shown = [block for said in model.said[since:] for block in said if block.get("name") != TOOL_NAME]
        assert content == shown
        for heard in upstream.requests[since:]:
            sent = raw_messages(heard.body)
            assert sent[: len(before)] == before
            before = sent
            calls_are_answered(heard.json["messages"])
        if since and way is WAYS["as it came"]:  # the reply before stands there as it was said, and hidden rounds too
            first = orjson.loads(f"[{','.join(raw_messages(upstream.requests[since].body))}]")
            assert first[-2 if first[-1]["role"] == "user" else -1]["content"] == model.said[since - 1]
        client.goes_on(content)


def calls_are_answered(listed: list[Json]) -> None:
    """Hold what is sent to the API's own rules: every call is answered in what the user says next, and nothing else."""
    pending: list[str] = []
    for one in listed:
        said: Any = one["content"]
        content: list[Json] = [text(said)] if isinstance(said, str) else said
        assert content
        if one["role"] == "assistant":
            pending += [block["id"] for block in content if block["type"] == "tool_use"]
        else:
            answered = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
            assert sorted(answered) == sorted(pending)
            pending = []
