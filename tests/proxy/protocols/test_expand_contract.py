"""The hidden tool on every protocol: the model fetches originals back, and the client sees only the answer.

The files `test_expand_chat`, `test_expand_responses` and `test_expand_messages` test the details of one protocol.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.proxy.expand.handler import MAX_CALLS_PER_ROUND, MAX_ROUNDS, ExpandHandler
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.proxy.stores.originals_store import OriginalsError
from clara_proxy.tests.faulty import Connection, FaultyUpstream, http_response
from clara_proxy.tests.proxy.protocols.expand_api import Api, Call, Client, Json, Output
from clara_proxy.tests.proxy.protocols.expand_apis import APIS, ChatApi, MessagesApi, ResponsesApi
from clara_proxy.tests.proxy.protocols.expand_data import (
    FINAL_TEXT,
    ORIGINAL,
    TOO_MANY_CALLS_TEXT,
    UNKNOWN_ID_TEXT,
    marker,
)
from clara_proxy.tests.running import LOG_TEXT, Proxy, run_proxy

UNKNOWN_ID = "0123456789abcdef"
WEB_SEARCH: Json = {"type": "web_search"}
plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def clients(proxy: Proxy) -> Iterator[dict[str, Client]]:
    """The real clients, by protocol."""
    clients = {api.name: api.create_client(proxy.url) for api in APIS}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def api(proxy: Proxy, upstream: FaultyUpstream, clients: dict[str, Client], request: pytest.FixtureRequest) -> Api:
    """The protocol under test; a test that does not parametrise it runs on all of them."""
    api_type: type[Api] = request.param
    return api_type(proxy, upstream, clients[api_type.name])


every_api = pytest.mark.parametrize("api", APIS, indirect=True, ids=[api.name for api in APIS])


def new_label() -> str:
    """Return a label that no other request has."""
    return secrets.token_hex(8)


@every_api
@plain_and_streamed
def test_model_gets_the_original_and_client_only_the_answer(api: Api, stream: bool) -> None:
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    label = new_label()
    reply = api.ask(api.build_request(), stream=stream, label=label)
    assert (reply.text, reply.calls, reply.finish) == (FINAL_TEXT, [], "stop")
    assert TOOL_NAME not in str(reply.turn)
    first, second = api.upstream.requests
    assert first.json["tools"][:-1] == api.tools
    assert api.tool_name(first.json["tools"][-1]) == TOOL_NAME
    assert api.find_expand_results(first.json) == []
    assert api.find_expand_results(second.json) == [ORIGINAL]
    items = api.items(first.json)
    assert api.items(second.json)[: len(items)] == items
    assert {**second.json, "messages": [], "input": []} == {**first.json, "messages": [], "input": []}
    assert second.body.startswith(first.body[: first.body.index(b"]")])
    row = api.proxy.wait_for_row(label)
    assert (row.protocol, row.outcome, row.streamed) == (api.name, "ok", stream)
    assert row.billed_input == 2 * api.round_input_tokens
    assert row.fetched_back_tokens > 1000
    assert row.saved_tokens < 0  # the original was sent in addition to the compressed text


@every_api
@plain_and_streamed
def test_text_before_a_call_comes_before_the_answer(api: Api, stream: bool) -> None:
    api.run_model(api.expand_once("Let me look. ", then=[FINAL_TEXT]))
    assert api.ask(api.build_request(), stream=stream).text == "Let me look. " + FINAL_TEXT


@every_api
@plain_and_streamed
def test_parallel_calls_are_all_answered_in_order(api: Api, stream: bool) -> None:
    def model(request: Json) -> Output:
        if api.find_expand_results(request):
            return [FINAL_TEXT]
        marker_id = api.find_marker_ids(request)[0]
        arguments: list[Json | str] = [
            {"id": marker_id, "lines": "2-3"},
            {"id": UNKNOWN_ID},
            {"id": marker_id, "query": "disk full"},
            {"id": marker_id, "lines": "nonsense"},
            {"nothing": "at all"},
            '{"id":',
        ]
        return [Call(TOOL_NAME, fields, f"call_{number}") for number, fields in enumerate(arguments)]

    api.run_model(model)
    assert api.ask(api.build_request(), stream=stream).text == FINAL_TEXT
    sent = api.upstream.last_request.json
    assert list(api.find_results(sent))[-6:] == [f"call_{number}" for number in range(6)]
    lines, unknown, matches, invalid_lines, no_id, invalid_json = api.find_expand_results(sent)
    assert lines == "\n".join(ORIGINAL.splitlines()[1:3])
    assert UNKNOWN_ID_TEXT in unknown
    assert "ERROR disk full on /dev/sda1" in matches
    assert len(matches) < len(ORIGINAL) / 10
    assert "lines must be" in invalid_lines
    assert no_id == invalid_json == unknown


def build_mixed_output(api: Api, request: Json) -> Output:
    """Call the hidden tool between two calls of a client's tool, and answer once there are results."""
    if api.find_expand_results(request):
        return [FINAL_TEXT]
    bonn, kiel = (Call("weather", {"city": city}, f"call_{city}") for city in ("Bonn", "Kiel"))
    return [bonn, api.expand(request), kiel]


@every_api
@plain_and_streamed
def test_hidden_call_beside_client_calls_is_reinserted(api: Api, stream: bool) -> None:
    api.run_model(lambda request: build_mixed_output(api, request))
    request = api.build_request()
    reply = api.ask(request, stream=stream)
    assert reply.calls == [
        Call("weather", {"city": "Bonn"}, "call_Bonn"),
        Call("weather", {"city": "Kiel"}, "call_Kiel"),
    ]
    assert reply.finish == "tool_calls"
    assert len(api.upstream.requests) == 1  # the proxy waits for the client's results
    before = api.items(api.upstream.last_request.json)
    api.add_turn(request, reply, results={"call_Bonn": "sunny", "call_Kiel": "rain"})
    assert api.ask(request, stream=stream).text == FINAL_TEXT
    sent = api.upstream.last_request.json
    assert api.items(sent)[: len(before)] == before
    assert [call.id for call in api.find_calls(sent)] == ["c1", "call_Bonn", "call_expand", "call_Kiel"]
    results = api.find_results(sent)
    assert list(results)[1:] == ["call_expand", "call_Bonn", "call_Kiel"]
    assert (results["call_expand"], results["call_Bonn"], results["call_Kiel"]) == (ORIGINAL, "sunny", "rain")


@every_api
@plain_and_streamed
def test_later_turns_repeat_the_hidden_rounds(api: Api, stream: bool) -> None:
    api.run_model(api.expand_once("I look. ", then=[FINAL_TEXT]))
    request = api.build_request()
    expected = "I look. " + FINAL_TEXT
    for number in range(3):
        reply = api.ask(request, stream=stream)
        assert reply.text == expected  # the model fetches nothing back a second time
        before = api.items(api.upstream.last_request.json)
        api.add_turn(request, reply, f"and then, {number}?")
        reply = api.ask(request, stream=False)
        after = api.items(api.upstream.last_request.json)
        assert after[: len(before)] == before
        assert api.read_text(after[len(before)]) == FINAL_TEXT
        assert api.find_expand_results(api.upstream.last_request.json) == [ORIGINAL]
        api.add_turn(request, reply, "more")
        expected = FINAL_TEXT


@every_api
@plain_and_streamed
def test_request_is_sent_unchanged_after_the_round_limit(api: Api, stream: bool) -> None:
    def model(request: Json) -> Output:
        if request["tools"] == api.tools:
            return [FINAL_TEXT]
        return ["again ", api.expand(request, f"call_{len(api.upstream.requests)}")]

    api.run_model(model)
    label, request = new_label(), api.build_request()
    reply = api.ask(request, stream=stream, label=label)
    assert (reply.text, reply.finish) == ("again " * (MAX_ROUNDS + 1) + FINAL_TEXT, "stop")
    assert len(api.upstream.requests) == MAX_ROUNDS + 2
    assert {name: api.upstream.last_request.json[name] for name in request} == request
    row = api.proxy.wait_for_row(label)
    assert (row.outcome, row.status) == ("ok", 200)
    assert row.billed_input == (MAX_ROUNDS + 2) * api.round_input_tokens
    assert orjson.loads(row.skipped)["too-many-expansions"] == 1
    assert row.saved_tokens < 0
    # The next turn repeats what is in the provider's cache, and fetches nothing back again.
    before = api.items(api.upstream.requests[MAX_ROUNDS].json)
    api.add_turn(request, reply, "Really?")
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    assert api.ask(request, stream=stream).text == FINAL_TEXT
    assert api.items(api.upstream.last_request.json)[: len(before)] == before
    assert len(api.upstream.requests) == MAX_ROUNDS + 3


@every_api
@plain_and_streamed
def test_model_that_only_calls_the_hidden_tool_is_an_error(api: Api, stream: bool) -> None:
    api.run_model(lambda _: [Call(TOOL_NAME, {"id": UNKNOWN_ID}, f"call_{len(api.upstream.requests)}")])
    label = new_label()
    with pytest.raises(api.error_type, match="gave no answer"):
        api.ask(api.build_request(), stream=stream, label=label, retries=2)
    assert len(api.upstream.requests) == MAX_ROUNDS + 2  # the client does not retry
    row = api.proxy.wait_for_row(label)
    assert (row.outcome, row.billed_input) == ("upstream_error", (MAX_ROUNDS + 2) * api.round_input_tokens)
    api.run_model(lambda _: [FINAL_TEXT])
    assert api.ask(api.build_request(), stream=stream).text == FINAL_TEXT
    assert api.find_expand_results(api.upstream.last_request.json) == []  # the failed rounds are forgotten


@every_api
def test_only_some_of_a_thousand_parallel_calls_are_answered(api: Api) -> None:
    def model(request: Json) -> Output:
        if api.find_expand_results(request):
            return [FINAL_TEXT]
        return [api.expand(request, f"call_{number}") for number in range(1000)]

    api.run_model(model)
    assert api.ask(api.build_request(), stream=False).text == FINAL_TEXT
    results = api.find_expand_results(api.upstream.last_request.json)
    assert results[0] == ORIGINAL
    assert all("already shown above" in text for text in results[1:MAX_CALLS_PER_ROUND])
    assert all(TOO_MANY_CALLS_TEXT in text for text in results[MAX_CALLS_PER_ROUND:])
    assert len(results) == 1000


FAILURES = [
    (b'{\n  "error": {\n    "message": "too busy",\n    "code": "x"\n  }\n}\n', "429 Too Many Requests", "too busy"),
    (b"<html>\nBad gateway\n</html>", "502 Bad Gateway", "502|Bad gateway"),
]


@every_api
@plain_and_streamed
@pytest.mark.parametrize(("body", "status", "message"), FAILURES, ids=["JSON", "HTML"])
def test_failure_in_a_later_round_is_an_error(api: Api, stream: bool, body: bytes, status: str, message: str) -> None:
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    respond = api.upstream.script

    async def script(connection: Connection) -> None:
        if api.find_expand_results(connection.request.json):
            await connection.send(http_response(body, status=status))
        else:
            await respond(connection)

    api.upstream.script = script
    label = new_label()
    with pytest.raises(api.error_type, match=message):
        api.ask(api.build_request(), stream=stream, label=label)
    row = api.proxy.wait_for_row(label)
    assert (row.outcome, row.billed_input) == ("upstream_error", api.round_input_tokens)  # of the first round


@every_api
def test_broken_stream_ends_with_an_error_that_the_client_raises(api: Api) -> None:
    api.upstream.stream_events(api.first_event(), ending=Connection.reset)
    with pytest.raises(api.error_type, match="upstream"):
        api.ask(api.build_request(), stream=True)


@every_api
@plain_and_streamed
def test_truncated_hidden_call_is_dropped(api: Api, stream: bool) -> None:
    api.run_model(lambda _: ["I", Call(TOOL_NAME, '{"id": "0', "call_expand")], finish="length")
    request = api.build_request()
    reply = api.ask(request, stream=stream)
    assert (reply.text, reply.calls, reply.finish) == ("I", [], "length")
    assert len(api.upstream.requests) == 1
    api.add_turn(request, reply, "go on")
    api.run_model(lambda _: [FINAL_TEXT])
    assert api.ask(request, stream=stream).text == FINAL_TEXT
    assert api.items(api.upstream.last_request.json)[3:] == api.items(request)[3:]


CLIENT_TOOL_CASES: list[tuple[type[Api], Json, dict[str, str]]] = [
    (ChatApi, {"tools": None}, {}),
    (ChatApi, {"n": 2}, {}),
    (ChatApi, {}, {"x-clara-mode": "observe"}),
    (ResponsesApi, {"tools": None}, {}),
    (ResponsesApi, {"tools": [WEB_SEARCH]}, {}),
    (ResponsesApi, {"tools": [{"type": "custom", "name": TOOL_NAME}]}, {}),
    (ResponsesApi, {"background": True}, {}),
    (ResponsesApi, {"conversation": "conv_1"}, {}),
    (ResponsesApi, {"conversation": {"id": "conv_1"}}, {}),
    (MessagesApi, {"tools": None}, {}),
    (MessagesApi, {"tools": [*MessagesApi.tools, {"type": "code_execution_20250825", "name": "code"}]}, {}),
    *((api, {"tools": []}, {}) for api in APIS),
    *((api, {"tools": [*api.tools, api.own_expand_tool]}, {}) for api in APIS),
    *((api, {}, {"x-clara-retrieve": "none"}) for api in APIS),
    *((api, {}, {"x-clara-retrieve": "url"}) for api in APIS),
    *((api, {}, {"x-clara-mode": "off"}) for api in APIS),
    *((api, {}, {"x-clara-bypass": "true"}) for api in APIS),
]


@pytest.mark.parametrize(
    ("api", "fields", "headers"),
    CLIENT_TOOL_CASES,
    indirect=["api"],
    ids=[f"{api.name}-{fields or headers}" for api, fields, headers in CLIENT_TOOL_CASES],
)
@plain_and_streamed
def test_tool_is_not_offered_and_no_marker_names_it(
    api: Api, fields: Json, headers: dict[str, str], stream: bool
) -> None:
    request = api.build_request(**fields, stream=stream)
    if request["tools"] is None and api.name != "responses":
        del request["tools"]
    api.run_model(lambda _: [Call(TOOL_NAME, {"id": UNKNOWN_ID}, "call_own")])
    reply = api.proxy.post(request, api.path, authorization=f"Bearer {api.key}", **headers)
    sent = api.upstream.last_request.json
    assert sent.get("tools") == request.get("tools")
    assert api.find_marker_ids(sent) == []
    assert "call_own" in reply.text  # a call of a client's own tool of that name reaches the client
    assert len(api.upstream.requests) == 1


RESPONSES_CHOICES: list[Any] = [
    "none",
    "auto",
    "required",
    {"type": "function", "name": "weather"},
    {"type": "allowed_tools", "mode": "auto", "tools": []},
]
MESSAGES_CHOICES: list[Json] = [
    {"type": "auto", "disable_parallel_tool_use": True},
    {"type": "any"},
    {"type": "none"},
    {"type": "tool", "name": "weather"},
]
CHOICE_CASES: list[tuple[type[Api], Json]] = [
    *((api, {}) for api in APIS),
    *((ResponsesApi, {"tool_choice": choice}) for choice in RESPONSES_CHOICES),
    *((MessagesApi, {"tool_choice": choice}) for choice in MESSAGES_CHOICES),
]


@pytest.mark.parametrize(("api", "fields"), CHOICE_CASES, indirect=["api"])
def test_tool_is_last_from_the_first_turn_whatever_the_choice(api: Api, fields: Json) -> None:
    api.run_model(lambda _: [FINAL_TEXT])
    request = api.build_short_request(**fields)
    reply = api.proxy.post(request, api.path)
    sent = api.upstream.last_request.json
    assert sent["tools"][:-1] == request["tools"]
    assert api.tool_name(sent["tools"][-1]) == TOOL_NAME
    assert sent.get("tool_choice") == request.get("tool_choice")
    assert reply.json().get("tools") in (None, request["tools"])
    assert -150 < int(reply.headers["x-clara-tokens-saved"]) < 0  # the cost of the tool is reported


@every_api
def test_forged_marker_does_not_return_the_text_of_another_client(api: Api) -> None:
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    api.ask(api.build_request(), stream=False)
    (stolen_id,) = set(api.find_marker_ids(api.upstream.requests[0].json))
    request = api.build_request(marker(stolen_id) + "\n" + LOG_TEXT)
    api.proxy.post(request, api.path, authorization="Bearer sk-another-client")
    assert ORIGINAL not in str(api.upstream.last_request.json)
    assert UNKNOWN_ID_TEXT in " ".join(api.find_expand_results(api.upstream.last_request.json))


def test_hidden_rounds_survive_a_restart(upstream: FaultyUpstream, tmp_path: Path) -> None:
    turns: list[tuple[type[Api], str, Json, list[Json]]] = []
    with run_proxy(upstream.url, tmp_path) as proxy:
        for api_type in APIS:
            with api_type.create_client(proxy.url) as client:
                api = api_type(proxy, upstream, client)
                api.run_model(api.expand_once(then=[FINAL_TEXT]))
                request = api.build_request()
                reply = api.ask(request, stream=False)
                before = api.items(upstream.last_request.json)
                assert api.find_expand_results(upstream.last_request.json) == [ORIGINAL]
                api.add_turn(request, reply, "and now?")
                turns.append((api_type, api.key, request, before))
    with run_proxy(upstream.url, tmp_path) as proxy:
        for api_type, key, request, before in turns:
            with api_type.create_client(proxy.url) as client:
                api = api_type(proxy, upstream, client)
                api.run_model(lambda _: [FINAL_TEXT])
                proxy.post(request, api.path, authorization=f"Bearer {key}")
                assert api.items(upstream.last_request.json)[: len(before)] == before


@every_api
@plain_and_streamed
def test_failing_store_does_not_cost_the_answer(api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    async def fail(*_: object) -> None:
        raise OriginalsError("the disk is gone")

    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    monkeypatch.setattr(ExpandHandler, "store_hidden", fail)
    assert api.ask(api.build_request(), stream=stream).text == FINAL_TEXT
    monkeypatch.setattr(Originals, "get", fail)
    assert api.ask(api.build_request(), stream=stream).text == FINAL_TEXT
    assert UNKNOWN_ID_TEXT in api.find_expand_results(api.upstream.last_request.json)[0]
