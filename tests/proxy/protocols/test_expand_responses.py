"""The hidden tool on the Responses API: details beyond the contract of `test_expand_contract`."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from clara_proxy.proxy.expand.handler import MAX_ROUNDS
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.expand_api import Client, Json
from clara_proxy.tests.proxy.protocols.expand_apis import ResponsesApi, join_response_events, response_text
from clara_proxy.tests.proxy.protocols.expand_data import FINAL_TEXT, MARKER_ID, ORIGINAL
from clara_proxy.tests.proxy.protocols.responses_upstream import (
    WEATHER_TOOL,
    ResponsesUpstream,
    call,
    find_expand_results,
    find_marker_ids,
    message,
    reasoning,
    result,
    web_search,
)
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, run_proxy

plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def shared_client(proxy: Proxy) -> Iterator[Client]:
    with ResponsesApi.create_client(proxy.url) as client:
        yield client


@pytest.fixture
def api(proxy: Proxy, upstream: FaultyUpstream, shared_client: Client) -> ResponsesApi:
    return ResponsesApi(proxy, upstream, shared_client)


@pytest.fixture
def client(api: ResponsesApi) -> Client:
    return api.client


@pytest.fixture
def direct_client(upstream: FaultyUpstream, client: Client) -> Client:
    return client.with_options(base_url=f"{upstream.url}/v1")


def build_request(**fields: Any) -> Json:
    """Return a request with a tool output that can be compressed."""
    items = [{"role": "user", "content": "why did it fail?"}, call("logs", {}, "c1"), result("c1", ORIGINAL)]
    return {"model": "gpt-4o", "input": items, "tools": [WEATHER_TOOL], **fields}


def expand(request: Json, call_id: str = "call_expand") -> Json:
    return call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, call_id)


def answer(_: Json) -> list[Json]:
    """Reply with the answer."""
    return [message(FINAL_TEXT)]


def think_and_expand(request: Json) -> list[Json]:
    """Think and fetch the original back, once; then think again and answer."""
    if find_expand_results(request["input"]) or not find_marker_ids(request):
        return [reasoning("the answer"), message(FINAL_TEXT)]
    return [reasoning("the question"), expand(request)]


def mix_calls(request: Json) -> list[Json]:
    """Call the hidden tool between two calls of a client's tool, and answer once there are results."""
    if find_expand_results(request["input"]):
        return [message(FINAL_TEXT)]
    bonn, kiel = (call("weather", {"city": city}, f"call_{city}") for city in ("Bonn", "Kiel"))
    return [reasoning("both"), bonn, expand(request), kiel]


def build_results(reply: Json) -> list[Json]:
    calls = [item["call_id"] for item in reply["output"] if item["type"] == "function_call"]
    return [result(call_id, "sunny") for call_id in calls]


def list_events(client: Client, **request: Any) -> list[Json]:
    return [event.model_dump(exclude_unset=True) for event in client.responses.create(**request, stream=True)]


def ask(client: Client, *, stream: bool, **request: Any) -> Json:
    """Return the reply; of a stream, the reply in its last event."""
    if stream:
        return join_response_events(list_events(client, **request))
    reply: Json = client.responses.create(**request).model_dump(exclude_unset=True)
    return reply


@plain_and_streamed
def test_reply_and_second_request_are_exact(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    ResponsesUpstream(upstream, think_and_expand)
    reply = ask(client, stream=stream, **build_request())
    assert reply["output"] == [reasoning("the question"), reasoning("the answer"), message(FINAL_TEXT)]
    assert (reply["status"], reply["tools"]) == ("completed", [WEATHER_TOOL])
    assert reply["id"] == ("resp_1" if stream else "resp_2")  # a stream has begun with the id of its first round
    assert reply["usage"]["input_tokens_details"] == {"cached_tokens": 8}
    assert reply["usage"]["total_tokens"] == 45
    first, second = (request.json for request in upstream.requests)
    assert first["tools"][-1]["strict"] is False
    assert second == {**first, "input": [*first["input"], *think_and_expand(first), second["input"][-1]]}


def remove_id_and_usage(events: list[Json]) -> list[Json]:
    """Return events without the fields that differ between two runs: the reply's id and its usage."""
    return [
        {**event, "response": {**event["response"], "id": "", "usage": None}} if "response" in event else event
        for event in events
    ]


def test_events_are_the_same_as_without_a_hidden_call(
    client: Client, direct_client: Client, upstream: FaultyUpstream
) -> None:
    ResponsesUpstream(upstream, think_and_expand)
    proxied_events = list_events(client, **build_request())
    ResponsesUpstream(upstream, lambda _: [reasoning("the question"), reasoning("the answer"), message(FINAL_TEXT)])
    direct_events = list_events(direct_client, **build_request())
    assert remove_id_and_usage(direct_events) == remove_id_and_usage(proxied_events)


def test_unrelated_events_pass_byte_for_byte(proxy: Proxy, upstream: FaultyUpstream) -> None:
    ResponsesUpstream(
        upstream, lambda _: [reasoning("this"), message(FINAL_TEXT), web_search("disk"), call("weather", {}, "w")]
    )
    proxied = proxy.post(build_request(stream=True), "/v1/responses").content
    bypassed = proxy.post(build_request(stream=True), "/v1/responses", x_clara_bypass="true").content
    pairs = list(zip(bypassed.split(b"\n\n"), proxied.split(b"\n\n"), strict=True))
    different = [before for before, after in pairs if before != after]
    assert all(re.match(rb"event: response\.(created|in_progress|completed)\n", event) for event in different)
    assert len(different) == 3  # they hold the list of tools and the reply's id
    assert TOOL_NAME.encode() not in proxied


@plain_and_streamed
def test_text_input_becomes_a_list_after_a_hidden_call(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    def model(request: Json) -> list[Json]:
        if find_expand_results(request["input"]):
            return [message(FINAL_TEXT)]
        marker_id = MARKER_ID.findall(request["input"][0]["content"])[0]
        return [call(TOOL_NAME, {"id": marker_id}, "call_expand")]

    ResponsesUpstream(upstream, model)
    text = f"Why did it fail?\n\n<document>\n{LOG_TEXT}\n</document>"
    reply = ask(client, stream=stream, **build_request(input=text))
    assert response_text(reply) == FINAL_TEXT
    first, second = (request.json["input"] for request in upstream.requests)
    assert len(first) < len(text)
    assert second[0] == {"role": "user", "content": first}
    assert find_expand_results(second) == [LOG_TEXT]
    # The conversation is recognised when the client continues with a list.
    items = [{"role": "user", "content": text}, *reply["output"], {"role": "user", "content": "and then?"}]
    ask(client, stream=stream, **build_request(input=items))
    assert upstream.last_request.json["input"][: len(second)] == second


@plain_and_streamed
def test_mixed_turn_is_reinserted_with_its_reasoning(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    ResponsesUpstream(upstream, mix_calls)
    request = build_request()
    reply = ask(client, stream=stream, **request)
    assert [item.get("call_id") for item in reply["output"]] == [None, "call_Bonn", "call_Kiel"]
    request["input"] += [*reply["output"], *build_results(reply)]
    assert response_text(ask(client, stream=stream, **request)) == FINAL_TEXT
    sent = upstream.last_request.json["input"]
    assert sent[3:7] == mix_calls(upstream.requests[0].json)
    assert [item["call_id"] for item in sent[7:]] == ["call_expand", "call_Bonn", "call_Kiel"]
    assert find_expand_results(sent) == [ORIGINAL]


@plain_and_streamed
def test_mixed_turn_continues_from_the_id_of_the_reply(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    state = ResponsesUpstream(upstream, mix_calls)
    reply = ask(client, stream=stream, **build_request())
    request = build_request(input=build_results(reply), previous_response_id=reply["id"])
    assert response_text(ask(client, stream=stream, **request)) == FINAL_TEXT
    call_ids = [item["call_id"] for item in upstream.last_request.json["input"]]
    assert call_ids == ["call_expand", "call_Bonn", "call_Kiel"]
    assert find_expand_results(state.contexts[-1]) == [ORIGINAL]


def test_mixed_turn_continues_from_an_id_after_a_restart(upstream: FaultyUpstream, tmp_path: Path) -> None:
    ResponsesUpstream(upstream, mix_calls)
    with run_proxy(upstream.url, tmp_path) as proxy:
        reply = proxy.post(build_request(), "/v1/responses").json()
    with run_proxy(upstream.url, tmp_path) as proxy:
        request = build_request(input=build_results(reply), previous_response_id=reply["id"])
        assert response_text(proxy.post(request, "/v1/responses").json()) == FINAL_TEXT


@plain_and_streamed
def test_mixed_turn_continues_with_item_references(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    state = ResponsesUpstream(upstream, mix_calls)
    request = build_request()
    reply = ask(client, stream=stream, **request)
    request["input"] += [*return_references(reply), *build_results(reply)]
    assert response_text(ask(client, stream=stream, **request)) == FINAL_TEXT
    assert [item.get("call_id") for item in state.contexts[-1][4:]] == [
        "call_Bonn", "call_expand", "call_Kiel", "call_expand", "call_Bonn", "call_Kiel",
    ]  # fmt: skip
    assert find_expand_results(state.contexts[-1]) == [ORIGINAL]


@plain_and_streamed
def test_client_continues_from_the_id_of_a_reply(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    state = ResponsesUpstream(upstream, think_and_expand)
    reply = ask(client, stream=stream, **build_request())
    for turn in range(2):
        text = f"and then, {turn}?"
        reply = ask(client, stream=stream, **build_request(input=text, previous_response_id=reply["id"]))
        assert response_text(reply) == FINAL_TEXT
        assert upstream.last_request.json["input"] == text
        assert find_expand_results(state.contexts[-1]) == [ORIGINAL]  # the upstream has stored the hidden round
        assert state.contexts[-1][: len(state.contexts[-2])] == state.contexts[-2]


def test_client_continues_from_an_id_after_the_round_limit(client: Client, upstream: FaultyUpstream) -> None:
    def model(request: Json) -> list[Json]:
        if request["tools"] == [WEATHER_TOOL]:
            return [message(FINAL_TEXT)]
        return [expand(request, f"call_{len(upstream.requests)}")]

    state = ResponsesUpstream(upstream, model)
    reply = ask(client, stream=False, **build_request())
    assert (response_text(reply), reply["status"]) == (FINAL_TEXT, "completed")
    assert len(upstream.requests) == MAX_ROUNDS + 2
    state.model = answer
    items = [{"role": "user", "content": "go on"}]
    reply = ask(client, stream=False, **build_request(input=items, previous_response_id=reply["id"]))
    assert response_text(reply) == FINAL_TEXT


def think_with_unique_ids(request: Json) -> list[Json]:
    """Reply as `think_and_expand` does, with item ids that never repeat."""
    length = len(request["input"])
    return [
        item if item["type"] == "function_call" else {**item, "id": f"{item['id']}_{length}"}
        for item in think_and_expand(request)
    ]


def return_unchanged(reply: Json) -> list[Json]:
    return list(reply["output"])


def return_without_ids(reply: Json) -> list[Json]:
    return [{name: value for name, value in item.items() if name != "id"} for item in reply["output"]]


def return_references(reply: Json) -> list[Json]:
    """Return references to the items that the provider has stored, as some SDKs do."""
    return [{"type": "item_reference", "id": item["id"]} for item in reply["output"]]


def return_bare_references(reply: Json) -> list[Json]:
    return [{"id": item["id"]} if item["type"] == "reasoning" else item for item in reply["output"]]


def return_text(reply: Json) -> list[Json]:
    return [{"role": "assistant", "content": response_text(reply)}]


def return_without_reasoning(reply: Json) -> list[Json]:
    return [item for item in return_without_ids(reply) if item["type"] != "reasoning"]


WITH_IDS = (return_unchanged, return_references, return_bare_references)
WITHOUT_IDS = (return_without_ids, return_text, return_without_reasoning)


@plain_and_streamed
@pytest.mark.parametrize("return_output", [*WITH_IDS, *WITHOUT_IDS])
def test_later_turns_repeat_the_hidden_rounds_however_output_returns(
    client: Client, upstream: FaultyUpstream, stream: bool, return_output: Callable[[Json], list[Json]]
) -> None:
    ResponsesUpstream(upstream, think_with_unique_ids)
    request = build_request()
    request["input"] += return_output(ask(client, stream=stream, **request))
    before = upstream.last_request.json["input"]
    for turn in range(3):
        request["input"].append({"role": "user", "content": f"and then, {turn}?"})
        reply = ask(client, stream=stream, **request)
        assert response_text(reply) == FINAL_TEXT
        sent = upstream.last_request.json["input"]
        assert find_expand_results(sent) == [ORIGINAL]  # the model fetches nothing back a second time
        item_id = next(item.get("id") for item in sent if item.get("call_id") == "call_expand")
        assert item_id == (call(TOOL_NAME, {}, "call_expand")["id"] if return_output in WITH_IDS else None)
        if return_output is return_unchanged:
            assert sent[: len(before)] == before
        assert sent[:3] == before[:3]
        request["input"] += return_output(reply)
        before = sent


@plain_and_streamed
def test_searches_of_the_provider_are_not_client_calls(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    def model(request: Json) -> list[Json]:
        if find_expand_results(request["input"]):
            return [web_search("disk"), message(FINAL_TEXT)]
        return [web_search("why"), message("Let me look."), expand(request)]

    state = ResponsesUpstream(upstream, model)
    request = build_request()
    reply = ask(client, stream=stream, **request)
    assert reply["output"] == [web_search("why"), message("Let me look."), web_search("disk"), message(FINAL_TEXT)]
    before = state.contexts[-1]
    request["input"] += [*reply["output"], {"role": "user", "content": "and now?"}]
    ask(client, stream=stream, **request)
    assert state.contexts[-1][: len(before)] == before


def test_bytes_after_the_last_event_come_once(upstream: FaultyUpstream, proxy: Proxy) -> None:
    def expand_forever(_: Json) -> list[Json]:
        return [message("again"), call(TOOL_NAME, {"id": "0123456789ab"}, f"call_{len(upstream.requests)}")]

    for model in (think_and_expand, expand_forever):
        state = ResponsesUpstream(upstream, model)
        state.trailer = b"data: [DONE]\n\n"
        key = f"Bearer {CLIENT_KEY}-{model.__name__}"
        content = proxy.post(build_request(stream=True), "/v1/responses", authorization=key).content
        assert content.count(b"[DONE]") == content.count(b"event: response.completed") == 1
        assert content.endswith(b"\n\ndata: [DONE]\n\n")


@plain_and_streamed
def test_failed_reply_is_passed_on(client: Client, upstream: FaultyUpstream, stream: bool) -> None:
    state = ResponsesUpstream(upstream, lambda _: [])
    state.reply_fields = {"status": "failed", "error": {"code": "server_error", "message": "oh"}, "usage": None}
    reply = ask(client, stream=stream, **build_request())
    assert (reply["status"], reply["error"]["message"], reply["usage"]) == ("failed", "oh", None)


@pytest.mark.parametrize("store", [True, False])
def test_unencrypted_reasoning_returns_only_to_a_store(client: Client, upstream: FaultyUpstream, store: bool) -> None:
    def model(request: Json) -> list[Json]:
        if find_expand_results(request["input"]):
            return [message(FINAL_TEXT)]
        return [reasoning("x", encrypted_content=None), reasoning("y"), expand(request)]

    state = ResponsesUpstream(upstream, model)
    reply = ask(client, stream=False, **build_request(store=store))
    assert [item["type"] for item in reply["output"]] == ["reasoning", "reasoning", "message"]
    sent = [item.get("encrypted_content") for item in state.contexts[-1] if item.get("type") == "reasoning"]
    assert sent == ([None] if store else []) + ["gAAAy="]


class Verdict(BaseModel):
    cause: str


def test_structured_outputs_work_with_the_streaming_helper(client: Client, upstream: FaultyUpstream) -> None:
    def model(request: Json) -> list[Json]:
        return [message('{"cause":"disk"}')] if find_expand_results(request["input"]) else [expand(request)]

    ResponsesUpstream(upstream, model)
    request = build_request(tools=[{**WEATHER_TOOL, "strict": True}])
    parsed = client.responses.parse(**request, text_format=Verdict)
    assert parsed.output_parsed == Verdict(cause="disk")
    assert upstream.last_request.json["text"]["format"]["name"] == "Verdict"
    with client.responses.stream(**request, text_format=Verdict) as stream:
        types = [event.type for event in stream]
        assert stream.get_final_response().output_parsed == Verdict(cause="disk")
    assert types[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert types.count("response.completed") == 1


def test_prefix_is_repeated_byte_for_byte(proxy: Proxy, upstream: FaultyUpstream, api: ResponsesApi) -> None:
    ResponsesUpstream(upstream, think_and_expand)
    request = build_request()
    for turn in range(3):
        reply = proxy.post(orjson.dumps(request), "/v1/responses", authorization=f"Bearer {api.key}").json()
        request["input"] += [*reply["output"], {"role": "user", "content": f"and then, {turn}?"}]
    inputs = [orjson.dumps(request.json["input"])[:-1] for request in upstream.requests]
    assert all(after.startswith(before) for before, after in pairwise(inputs))
    bodies = [request.body[: request.body.index(b'],"tools"')] for request in upstream.requests]
    assert all(after.startswith(before) for before, after in pairwise(bodies))
