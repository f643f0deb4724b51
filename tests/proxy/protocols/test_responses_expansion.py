"""On the Responses API the model has back what was left out, and the client, OpenAI's own, sees nothing of it."""

import re
import secrets
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import openai
import orjson
import pytest
from pydantic import BaseModel

from clara_proxy.proxy.expand.handler import MAX_CALLS_PER_ROUND, MAX_ROUNDS
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import Connection, FaultyUpstream, http_response
from clara_proxy.tests.proxy.protocols.responder import USAGE, Json, Responder, call, message, reasoning, searched
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy
from clara_proxy.tests.running import run_proxy as running

Client = Any  # its overloads have no use for arguments that come out of a table
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"
FINAL = "The disk was full."
ID = re.compile(TOOL_NAME + r" ([0-9a-f]{12,24})")


def asking(**more: Any) -> Json:
    """Return a request whose tool output can be made shorter."""
    items = [
        {"role": "user", "content": "why did it fail?"},
        call("logs", {}, "c1"),
        {"type": "function_call_output", "call_id": "c1", "output": ORIGINAL},
    ]
    return {"model": "gpt-4o", "input": items, "tools": [WEATHER], **more}


def asked_for(request: Json) -> list[str]:
    """Return the ids that the markers of a request name."""
    return ID.findall(str([item.get("output") for item in request["input"]]))


def expansions(items: list[Json]) -> list[str]:
    """Return what our tool has answered."""
    ours = {item["call_id"] for item in items if item.get("name") == TOOL_NAME}
    return [item["output"] for item in items if str(item.get("type")).endswith("_output") and item["call_id"] in ours]


def expand(request: Json, its_id: str = "call_ours", **more: str) -> Json:
    return call(TOOL_NAME, {"id": asked_for(request)[0], **more}, its_id)


def answers(request: Json) -> list[Json]:
    return [message(FINAL)]


def curious(request: Json) -> list[Json]:
    """Think, ask for what was left out, once; then think again, and answer."""
    if expansions(request["input"]) or not asked_for(request):
        return [reasoning("the answer"), message(FINAL)]
    return [reasoning("the question"), expand(request)]


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    """A client of its own for every test, so that nothing is remembered from another."""
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=f"sk-{secrets.token_hex(8)}", max_retries=0) as made:
        yield made


@pytest.fixture
def direct(upstream: FaultyUpstream) -> Iterator[Client]:
    with openai.OpenAI(base_url=f"{upstream.url}/v1", api_key=CLIENT_KEY, max_retries=0) as made:
        yield made


def ask(client: Client, *, stream: bool, **body: Any) -> Json:
    """Ask and return the response; of a streamed one, what its end says, which must be what its events said."""
    if not stream:
        reply: Json = client.responses.create(**body).model_dump(exclude_unset=True)
        return reply
    return ended(events(client, **body))


def events(client: Client, **body: Any) -> list[Json]:
    return [event.model_dump(exclude_unset=True) for event in client.responses.create(**body, stream=True)]


def ended(heard: list[Json]) -> Json:
    """Return how a stream ended, and hold its events to one another."""
    assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
    done = [event for event in heard if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == list(range(len(done)))
    reply: Json = heard[-1]["response"]
    assert [event["item"] for event in done] == reply["output"]
    assert TOOL_NAME not in str(heard)
    return reply


def text(reply: Json) -> str:
    parts = [part for item in reply["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


EITHER = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@EITHER
def test_the_model_gets_the_original_and_the_client_sees_only_the_answer(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, stream: bool
) -> None:
    Responder(upstream, curious)
    session = f"responses-{stream}"
    reply = ask(client, stream=stream, **asking(extra_headers={"x-clara-session": session}))
    assert reply["output"] == [reasoning("the question"), reasoning("the answer"), message(FINAL)]
    assert (reply["id"], reply["status"], reply["tools"]) == ("resp_2", "completed", [WEATHER])
    assert reply["usage"]["input_tokens_details"] == {"cached_tokens": 16}
    assert reply["usage"]["total_tokens"] == 90
    first, second = (heard.json for heard in upstream.requests)
    assert first["tools"][:-1] == [WEATHER]
    assert (first["tools"][-1]["name"], first["tools"][-1]["strict"]) == (TOOL_NAME, False)
    assert second == {**first, "input": [*first["input"], *curious(first), second["input"][-1]]}
    assert expansions(second["input"]) == [ORIGINAL]
    assert upstream.requests[1].body.startswith(upstream.requests[0].body[: upstream.requests[0].body.index(b"]")])
    row = proxy.wait_for_row(session)
    assert (row.protocol, row.billed_input) == ("responses", 2 * USAGE["input_tokens"])
    assert row.fetched_back_tokens > 1000
    assert row.saved_tokens < 0  # what was asked for again was sent, too


def without_names(heard: list[Json]) -> list[Json]:
    """Return events without what two runs cannot have in common: the reply's id and its usage."""
    replies = [{**event["response"], "id": "", "usage": None} for event in heard if "response" in event]
    made = iter(replies)
    return [{**event, "response": next(made)} if "response" in event else event for event in heard]


def test_event_by_event_it_is_as_if_nothing_had_been_asked_for(
    client: Client, direct: Client, upstream: FaultyUpstream
) -> None:
    Responder(upstream, curious)
    through = events(client, **asking())
    Responder(upstream, lambda _: [reasoning("the question"), reasoning("the answer"), message(FINAL)])
    assert without_names(events(direct, **asking())) == without_names(through)


def test_an_event_that_is_none_of_ours_passes_as_the_very_bytes(proxy: Proxy, upstream: FaultyUpstream) -> None:
    Responder(upstream, lambda _: [reasoning("this"), message(FINAL), searched("disk"), call("weather", {}, "w")])
    through = proxy.post(asking(stream=True), "/v1/responses").content
    straight = proxy.post(asking(stream=True), "/v1/responses", x_clara_bypass="true").content
    pairs = list(zip(straight.split(b"\n\n"), through.split(b"\n\n"), strict=True))
    changed = [one for one, other in pairs if one != other]
    assert all(re.match(rb"event: response\.(created|in_progress|completed)\n", one) for one in changed)
    assert len(changed) == 3  # they tell which tools are on offer, and the reply's id
    assert TOOL_NAME.encode() not in through


@EITHER
def test_a_text_as_input_becomes_a_list_when_the_model_asks(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request["input"]):
            return [message(FINAL)]
        return [call(TOOL_NAME, {"id": ID.findall(request["input"][0]["content"])[0]}, "call_ours")]

    Responder(upstream, say)
    given = f"Why did it fail?\n\n<document>\n{LOG_TEXT}\n</document>"
    reply = ask(client, stream=stream, **asking(input=given))
    assert text(reply) == FINAL
    first, second = (heard.json["input"] for heard in upstream.requests)
    assert len(first) < len(given)
    assert second[0] == {"role": "user", "content": first}
    assert expansions(second) == [f"\n{LOG_TEXT}\n"]
    # It is the same conversation when the client goes on with a list.
    said = [{"role": "user", "content": given}, *reply["output"], {"role": "user", "content": "and then?"}]
    ask(client, stream=stream, **asking(input=said))
    assert upstream.last_request.json["input"][: len(second)] == second


@EITHER
def test_several_calls_at_once_are_all_answered_in_order(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request["input"]):
            return [message(FINAL)]
        unknown = call(TOOL_NAME, {"id": "0123456789abcdef"}, "call_2")
        broken = call(TOOL_NAME, '{"id":', "call_4")
        return [expand(request, "call_1", lines="2-3"), unknown, expand(request, "call_3", query="disk full"), broken]

    Responder(upstream, say)
    assert text(ask(client, stream=stream, **asking())) == FINAL
    lines, unknown, matching, broken = expansions(upstream.last_request.json["input"])
    assert lines == "\n".join(ORIGINAL.splitlines()[1:3])
    assert "ERROR disk full on /dev/sda1" in matching
    assert "no text of this id" in unknown
    assert unknown == broken


def mixed(request: Json) -> list[Json]:
    """Call our tool and the client's in one breath, ours in the middle; then answer."""
    if expansions(request["input"]):
        return [message(FINAL)]
    theirs = [call("weather", {"city": city}, f"call_{city}") for city in ("Bonn", "Kiel")]
    return [reasoning("both"), theirs[0], expand(request), theirs[1]]


def results(reply: Json) -> list[Json]:
    calls = [item["call_id"] for item in reply["output"] if item["type"] == "function_call"]
    return [{"type": "function_call_output", "call_id": one, "output": "sunny"} for one in calls]


@EITHER
def test_calls_of_both_in_one_turn(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    Responder(upstream, mixed)
    reply = ask(client, stream=stream, **asking())
    assert [item.get("call_id") for item in reply["output"]] == [None, "call_Bonn", "call_Kiel"]
    assert len(upstream.requests) == 1  # the client's results are waited for
    body = asking()
    body["input"] += [*reply["output"], *results(reply)]
    assert text(ask(client, stream=stream, **body)) == FINAL
    sent = upstream.last_request.json["input"]
    assert sent[3:7] == mixed(upstream.requests[0].json)
    assert [item["call_id"] for item in sent[7:]] == ["call_ours", "call_Bonn", "call_Kiel"]
    assert expansions(sent) == [ORIGINAL]


@EITHER
def test_calls_of_both_and_the_client_goes_on_from_the_replys_id(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    responder = Responder(upstream, mixed)
    reply = ask(client, stream=stream, **asking())
    body = asking(input=results(reply), previous_response_id=reply["id"])
    assert text(ask(client, stream=stream, **body)) == FINAL
    assert [item["call_id"] for item in upstream.last_request.json["input"]] == ["call_ours", "call_Bonn", "call_Kiel"]
    assert expansions(responder.contexts[-1]) == [ORIGINAL]


@EITHER
def test_calls_of_both_and_the_client_names_them_by_their_ids(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    responder = Responder(upstream, mixed)
    body = asking()
    reply = ask(client, stream=stream, **body)
    body["input"] += [*by_reference(reply), *results(reply)]
    assert text(ask(client, stream=stream, **body)) == FINAL
    assert [item.get("call_id") for item in responder.contexts[-1][4:]] == [
        "call_Bonn", "call_ours", "call_Kiel", "call_ours", "call_Bonn", "call_Kiel",
    ]  # fmt: skip
    assert expansions(responder.contexts[-1]) == [ORIGINAL]


@EITHER
def test_a_client_that_goes_on_from_the_replys_id(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    responder = Responder(upstream, curious)
    reply = ask(client, stream=stream, **asking())
    for turn in range(2):
        said = f"and then, {turn}?"
        reply = ask(client, stream=stream, **asking(input=said, previous_response_id=reply["id"]))
        assert text(reply) == FINAL
        assert upstream.last_request.json["input"] == said
        assert expansions(responder.contexts[-1]) == [ORIGINAL]  # the upstream itself remembers
        assert responder.contexts[-1][: len(responder.contexts[-2])] == responder.contexts[-2]


def unique(request: Json) -> list[Json]:
    """Do as the curious does, with ids that are never the same."""
    at, said = len(request["input"]), curious(request)
    return [item if item["type"] == "function_call" else {**item, "id": f"{item['id']}_{at}"} for item in said]


def whole(reply: Json) -> list[Json]:
    return list(reply["output"])


def without_ids(reply: Json) -> list[Json]:
    return [{name: value for name, value in item.items() if name != "id"} for item in reply["output"]]


def by_reference(reply: Json) -> list[Json]:
    """Send back what the provider remembers by its id alone, as some SDKs do."""
    return [{"type": "item_reference", "id": item["id"]} for item in reply["output"]]


def by_bare_reference(reply: Json) -> list[Json]:
    return [{"id": item["id"]} if item["type"] == "reasoning" else item for item in reply["output"]]


def words_alone(reply: Json) -> list[Json]:
    return [{"role": "assistant", "content": text(reply)}]


def without_reasoning(reply: Json) -> list[Json]:
    return [item for item in without_ids(reply) if item["type"] != "reasoning"]


WITH_IDS = (whole, by_reference, by_bare_reference)


@EITHER
@pytest.mark.parametrize("back", [whole, without_ids, by_reference, by_bare_reference, words_alone, without_reasoning])
def test_later_turns_show_the_upstream_what_it_has_seen(
    client: Client, upstream: FaultyUpstream, stream: bool, back: Any
) -> None:
    Responder(upstream, unique)
    body = asking()
    body["input"] += back(ask(client, stream=stream, **body))
    seen = upstream.last_request.json["input"]
    for turn in range(3):
        body["input"].append({"role": "user", "content": f"and then, {turn}?"})
        reply = ask(client, stream=stream, **body)
        assert text(reply) == FINAL
        sent = upstream.last_request.json["input"]
        assert expansions(sent) == [ORIGINAL]  # nothing was asked for twice
        assert next(item.get("id") for item in sent if item.get("call_id") == "call_ours") == (
            call(TOOL_NAME, {}, "call_ours")["id"] if back in WITH_IDS else None
        )
        if back is whole:
            assert sent[: len(seen)] == seen
        assert sent[:3] == seen[:3]
        body["input"] += back(reply)
        seen = sent


@EITHER
def test_what_the_provider_does_by_itself_is_no_call_of_the_clients(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request["input"]):
            return [searched("disk"), message(FINAL)]
        return [searched("why"), message("Let me look."), expand(request)]

    responder = Responder(upstream, say)
    body = asking()
    reply = ask(client, stream=stream, **body)
    assert reply["output"] == [searched("why"), message("Let me look."), searched("disk"), message(FINAL)]
    seen = responder.contexts[-1]
    body["input"] += [*reply["output"], {"role": "user", "content": "and now?"}]
    ask(client, stream=stream, **body)
    assert responder.contexts[-1][: len(seen)] == seen


@EITHER
def test_a_model_that_does_not_stop_asking_gets_the_request_as_it_came(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    def insistent(request: Json) -> list[Json]:
        return (
            [message(FINAL)] if request["tools"] == [WEATHER] else [expand(request, f"call_{len(upstream.requests)}")]
        )

    responder = Responder(upstream, insistent)
    body = asking()
    reply = ask(client, stream=stream, **body)
    assert (text(reply), reply["status"]) == (FINAL, "completed")
    assert len(upstream.requests) == MAX_ROUNDS + 2
    assert {name: upstream.last_request.json[name] for name in body} == body
    # And the client may go on from there.
    responder.says = answers
    on = [{"role": "user", "content": "go on"}]
    assert text(ask(client, stream=stream, **asking(input=on, previous_response_id=reply["id"]))) == FINAL
    on = [*body["input"], *reply["output"], *on]
    assert text(ask(client, stream=stream, **asking(input=on))) == FINAL
    before = upstream.requests[MAX_ROUNDS].json["input"]
    assert upstream.last_request.json["input"][: len(before)] == before


@EITHER
def test_a_model_that_calls_a_tool_it_does_not_have_is_an_error_and_no_empty_answer(
    client: Client, upstream: FaultyUpstream, stream: bool
) -> None:
    responder = Responder(
        upstream, lambda _: [call(TOOL_NAME, {"id": "0123456789ab"}, f"call_{len(upstream.requests)}")]
    )
    with pytest.raises(openai.APIError, match="gave no answer"):
        ask(client.with_options(max_retries=2), stream=stream, **asking())
    assert len(upstream.requests) == MAX_ROUNDS + 2
    responder.says = answers
    assert text(ask(client, stream=stream, **asking())) == FINAL  # nothing was hidden behind what nobody saw
    assert expansions(upstream.last_request.json["input"]) == []


def test_what_comes_behind_the_end_comes_once(client: Client, upstream: FaultyUpstream, proxy: Proxy) -> None:
    def again(request: Json) -> list[Json]:
        return [message("again"), call(TOOL_NAME, {"id": "0123456789ab"}, f"call_{len(upstream.requests)}")]

    for says in (curious, again):
        responder = Responder(upstream, says)
        responder.done = b"data: [DONE]\n\n"
        heard = proxy.post(asking(stream=True), "/v1/responses", authorization=f"Bearer {says}").content
        assert heard.count(b"[DONE]") == heard.count(b"event: response.completed") == 1
        assert heard.endswith(b"\n\ndata: [DONE]\n\n")


def test_a_thousand_calls_at_once_are_not_all_answered(client: Client, upstream: FaultyUpstream) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request["input"]):
            return [message(FINAL)]
        return [expand(request, f"call_{at}") for at in range(1000)]

    Responder(upstream, say)
    assert text(ask(client, stream=False, **asking())) == FINAL
    found = expansions(upstream.last_request.json["input"])
    assert found[:MAX_CALLS_PER_ROUND] == [ORIGINAL] * MAX_CALLS_PER_ROUND
    assert all("was not answered" in one for one in found[MAX_CALLS_PER_ROUND:])
    assert len(found) == 1000


@EITHER
def test_a_call_that_was_cut_off_is_not_answered(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    responder = Responder(upstream, lambda _: [message("I"), call(TOOL_NAME, '{"id": "0', "c", status="incomplete")])
    responder.ends = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    body = asking()
    reply = ask(client, stream=stream, **body)
    assert (reply["status"], reply["output"]) == ("incomplete", [message("I")])
    assert len(upstream.requests) == 1
    body["input"] += [*reply["output"], {"role": "user", "content": "go on"}]
    responder.says, responder.ends = answers, {}
    assert text(ask(client, stream=stream, **body)) == FINAL
    assert upstream.last_request.json["input"][3:] == body["input"][3:]  # nor does it ever come back


FAILURES = [
    (b'{\n  "error": {\n    "message": "too busy",\n    "code": "x"\n  }\n}\n', "429 Too Many Requests", "too busy"),
    (b"<html>\nBad gateway\n</html>", "502 Bad Gateway", "502|Bad gateway"),
]


@EITHER
@pytest.mark.parametrize("failure", FAILURES)
def test_an_upstream_that_fails_in_a_later_round(
    client: Client, upstream: FaultyUpstream, proxy: Proxy, stream: bool, failure: tuple[bytes, str, str]
) -> None:
    body, status, said = failure
    Responder(upstream, curious)
    good = upstream.script

    async def script(wire: Connection) -> None:
        if expansions(wire.request.json["input"]):
            await wire.send(http_response(body, status=status))
        else:
            await good(wire)

    upstream.script = script
    session = f"fails-{stream}-{len(body)}"
    with pytest.raises(openai.APIError, match=said):
        ask(client, stream=stream, **asking(extra_headers={"x-clara-session": session}))
    row = proxy.wait_for_row(session)
    assert (row.outcome, row.billed_input) == ("upstream_error", USAGE["input_tokens"])  # of the first round


@EITHER
def test_a_reply_that_failed_is_told_as_it_is(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    responder = Responder(upstream, lambda _: [])
    responder.ends = {"status": "failed", "error": {"code": "server_error", "message": "oh"}, "usage": None}
    reply = ask(client, stream=stream, **asking())
    assert (reply["status"], reply["error"]["message"], reply["usage"]) == ("failed", "oh", None)


def test_a_stream_that_breaks_off_ends_with_an_error_that_the_client_raises(
    client: Client, upstream: FaultyUpstream
) -> None:
    upstream.stream_events(
        b'data: {"type":"response.created","sequence_number":0,"response":{}}\n\n', ending=Connection.reset
    )
    with pytest.raises(openai.APIError, match="upstream"):
        list(client.responses.create(**asking(), stream=True))


MINE = {**WEATHER, "name": TOOL_NAME}
SEARCH = {"type": "web_search"}


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({"tools": None}, {}),
        ({"tools": []}, {}),
        ({"tools": [SEARCH]}, {}),
        ({"tools": [WEATHER, MINE]}, {}),
        ({"tools": [{"type": "custom", "name": TOOL_NAME}]}, {}),
        ({"background": True}, {}),
        ({"conversation": "conv_1"}, {}),
        ({"conversation": {"id": "conv_1"}}, {}),
        ({}, {"x_clara_retrieve": "none"}),
        ({}, {"x_clara_retrieve": "url"}),
        ({}, {"x_clara_mode": "off"}),
        ({}, {"x_clara_bypass": "true"}),
    ],
)
def test_where_the_tool_is_not_offered_no_marker_names_it(
    proxy: Proxy, upstream: FaultyUpstream, more: Json, headers: dict[str, str]
) -> None:
    Responder(upstream, lambda _: [call(TOOL_NAME, {"id": "0123456789abcdef"}, "c")])
    body = asking(**more)
    answer = proxy.post(body, "/v1/responses", **headers)
    assert upstream.last_request.json["tools"] == body["tools"]
    assert not asked_for(upstream.last_request.json)
    assert (
        answer.json()["output"][0]["name"] == TOOL_NAME
    )  # a call of the client's own tool of this name is the client's


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        "auto",
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "auto", "tools": []},
    ],
)
def test_the_tool_stands_in_its_place_whatever_the_choice(proxy: Proxy, upstream: FaultyUpstream, choice: Any) -> None:
    Responder(upstream, answers)
    body = {"model": "gpt-4o", "input": "hi", "tools": [SEARCH, WEATHER], "tool_choice": choice}
    answer = proxy.post(body, "/v1/responses")
    sent = upstream.last_request.json
    assert (sent["tools"][:-1], sent["tools"][-1]["name"]) == (body["tools"], TOOL_NAME)
    assert sent["tool_choice"] == choice
    assert answer.json()["tools"] == body["tools"]
    assert -150 < int(answer.headers["x-clara-tokens-saved"]) < 0  # it costs something, and that is told


@pytest.mark.parametrize("stored", [True, False])
def test_reasoning_that_only_a_store_can_look_up_goes_back_only_where_there_is_one(
    client: Client, upstream: FaultyUpstream, stored: bool
) -> None:
    def say(request: Json) -> list[Json]:
        if expansions(request["input"]):
            return [message(FINAL)]
        return [reasoning("x", encrypted_content=None), reasoning("y"), expand(request)]

    responder = Responder(upstream, say)
    reply = ask(client, stream=False, **asking(store=stored))
    assert [item["type"] for item in reply["output"]] == ["reasoning", "reasoning", "message"]
    sent = [item.get("encrypted_content") for item in responder.contexts[-1] if item.get("type") == "reasoning"]
    assert sent == ([None] if stored else []) + ["gAAAy="]


def test_a_forged_marker_brings_nothing_of_anybody_elses(upstream: FaultyUpstream, proxy: Proxy) -> None:
    Responder(upstream, curious)
    proxy.post(asking(), "/v1/responses")
    (stolen,) = set(asked_for(upstream.requests[0].json))
    forged = asking()
    forged["input"][2]["output"] = f"[9 of 10 lines left out; {TOOL_NAME} {stolen}]\n" + LOG_TEXT
    proxy.post(forged, "/v1/responses", authorization="Bearer sk-of-somebody-else")
    assert ORIGINAL not in str(upstream.last_request.json)
    assert "no text of this id" in " ".join(expansions(upstream.last_request.json["input"]))


@EITHER
def test_after_a_restart_and_from_another_replica(upstream: FaultyUpstream, tmp_path: Any, stream: bool) -> None:
    Responder(upstream, mixed)
    with running(upstream.url, tmp_path) as first:
        reply = first.post(asking(), "/v1/responses").json()
    with running(upstream.url, tmp_path) as second:
        body = asking(input=results(reply), previous_response_id=reply["id"])
        assert text(second.post(body, "/v1/responses").json()) == FINAL


class Verdict(BaseModel):
    cause: str


def test_structured_outputs_and_the_streaming_helper(client: Client, upstream: FaultyUpstream) -> None:
    def say(request: Json) -> list[Json]:
        return [message('{"cause":"disk"}')] if expansions(request["input"]) else [expand(request)]

    Responder(upstream, say)
    strict = {**WEATHER, "strict": True}
    parsed = client.responses.parse(**asking(tools=[strict]), text_format=Verdict)
    assert parsed.output_parsed == Verdict(cause="disk")
    assert upstream.last_request.json["text"]["format"]["name"] == "Verdict"
    with client.responses.stream(**asking(tools=[strict]), text_format=Verdict) as streamed:
        kinds = [event.type for event in streamed]
        assert streamed.get_final_response().output_parsed == Verdict(cause="disk")
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds.count("response.completed") == 1


def test_the_upstreams_prefix_is_kept_byte_for_byte(proxy: Proxy, upstream: FaultyUpstream) -> None:
    Responder(upstream, curious)
    body = asking()
    for turn in range(3):
        reply = proxy.post(orjson.dumps(body), "/v1/responses").json()
        body["input"] += [*reply["output"], {"role": "user", "content": f"and then, {turn}?"}]
    inputs = [orjson.dumps(heard.json["input"])[:-1] for heard in upstream.requests]
    assert all(after.startswith(before) for before, after in pairwise(inputs))
    raw = [heard.body[: heard.body.index(b'],"tools"')] for heard in upstream.requests]
    assert all(after.startswith(before) for before, after in pairwise(raw))
