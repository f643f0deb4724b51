"""The hidden tool `clara_search` on every protocol: the model searches what `x-clara-remember` keeps."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from clara_proxy.proxy.expand.tool import MAX_OPENAI_TOOLS
from clara_proxy.proxy.protocols.expand_call import SEARCH_TOOL_NAME, TOOL_NAME
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.expand_api import Api, Call, Json, Output
from clara_proxy.tests.proxy.protocols.expand_apis import APIS
from clara_proxy.tests.proxy.protocols.expand_data import FINAL_TEXT
from clara_proxy.tests.running import Proxy

STORE = "sessions"
NOTHING_TEXT = "Nothing that is kept"
plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def memory_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with memory."""
    _upstream.reset()
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("memory"), memory=True) as proxy:
        yield proxy


@pytest.fixture(params=APIS, ids=[api.name for api in APIS])
def api(memory_proxy: Proxy, upstream: FaultyUpstream, request: pytest.FixtureRequest) -> Iterator[Api]:
    """A client of each protocol that has its tool outputs kept."""
    api_type: type[Api] = request.param
    client = api_type.create_client(memory_proxy.url).with_options(default_headers={"x-clara-remember": STORE})
    yield api_type(memory_proxy, upstream, client)
    client.close()


def search_once(api: Api, *queries: str) -> None:
    """Let the model search with these queries in one round, and then answer."""

    def model(request: Json) -> Output:
        if find_search_results(api, request):
            return [FINAL_TEXT]
        return [Call(SEARCH_TOOL_NAME, {"query": query}, f"s{number}") for number, query in enumerate(queries)]

    api.run_model(model)


def find_search_results(api: Api, request: Json) -> list[str]:
    ids = {call.id for call in api.find_calls(request) if call.name == SEARCH_TOOL_NAME}
    return [text for call_id, text in api.find_results(request).items() if call_id in ids]


def keep_output(api: Api, text: str) -> None:
    """Send a conversation with a tool output, and wait until it can be searched."""
    api.run_model(lambda _: ["ok"])
    api.ask(api.build_request(text), stream=False)
    with openai.OpenAI(base_url=f"{api.proxy.url}/v1", api_key=api.key, max_retries=0) as client:
        deadline = time.monotonic() + running.TIMEOUT
        while time.monotonic() < deadline:
            if any(store.file_counts.completed for store in client.vector_stores.list()):
                return
            time.sleep(0.02)
    raise AssertionError("nothing was kept")


@plain_and_streamed
def test_model_searches_kept_outputs_and_client_sees_only_the_answer(api: Api, stream: bool) -> None:
    secret = secrets.token_hex(4)
    keep_output(api, f"The heron flies at {secret}. </passages> " + "Other birds sleep. " * 40)
    search_once(api, "where does the heron fly?", "where does the heron fly?", "xyzzy")
    api.upstream.requests.clear()
    request = api.build_request("short")
    reply = api.ask(request, stream=stream)
    assert (reply.text, reply.calls, reply.finish) == (FINAL_TEXT, [], "stop")
    assert SEARCH_TOOL_NAME not in str(reply.turn)
    first, second = (received.json for received in api.upstream.requests)
    assert [api.tool_name(tool) for tool in first["tools"][-2:]] == [TOOL_NAME, SEARCH_TOOL_NAME]
    assert first["tools"][:-2] == api.tools
    results = find_search_results(api, second)
    assert f"The heron flies at {secret}." in results[0]
    assert results[0].startswith("<passages>")
    assert "already shown" in results[1]
    assert len(results) == 3
    api.add_turn(request, reply, "and now?")  # the next turn has the hidden calls at the same place
    api.ask(request, stream=stream)
    sent = api.upstream.last_request.json
    assert find_search_results(api, sent) == results
    assert api.items(sent)[: len(api.items(second))] == api.items(second)
    assert sent["tools"] == first["tools"]


def test_another_key_finds_nothing(api: Api) -> None:
    keep_output(api, "The heron flies at noon. " + "Other birds sleep. " * 40)
    stranger = type(api)(api.proxy, api.upstream, api.client)
    search_once(stranger, "heron")
    stranger.ask(stranger.build_short_request(), stream=False)
    [result] = find_search_results(stranger, stranger.upstream.last_request.json)
    assert NOTHING_TEXT in result


def test_a_search_needs_a_query_and_rounds_are_limited(api: Api) -> None:
    def model(request: Json) -> Output:
        if SEARCH_TOOL_NAME not in str(request["tools"]):
            return [FINAL_TEXT]
        return [Call(SEARCH_TOOL_NAME, {}, f"s{len(api.upstream.requests)}")]

    api.run_model(model)
    assert api.ask(api.build_short_request(), stream=False).text == FINAL_TEXT
    assert "needs a query" in find_search_results(api, api.upstream.requests[1].json)[0]


def test_tool_is_offered_only_where_it_is_asked_for_and_fits(api: Api) -> None:
    def list_added(count: int = 1, **fields: Any) -> list[str]:
        tools = api.tools * count
        request = api.build_short_request(**{"tools": tools, **fields})
        api.run_model(lambda _: ["ok"])
        api.ask(request, stream=False)
        return [api.tool_name(tool) for tool in api.upstream.last_request.json.get("tools", [])[len(tools) :]]

    both = [TOOL_NAME, SEARCH_TOOL_NAME]
    has_limit = api.name != "messages"
    assert list_added() == both
    assert list_added(MAX_OPENAI_TOOLS - 2) == both
    assert list_added(MAX_OPENAI_TOOLS - 1) == (both[:1] if has_limit else both)
    assert list_added(MAX_OPENAI_TOOLS) == ([] if has_limit else both)
    api.client = api.client.with_options(set_default_headers={"x-clara-session": "x"})
    assert list_added() == [TOOL_NAME]


def test_a_tool_of_the_client_with_this_name_is_the_clients(api: Api) -> None:
    own = {**api.own_expand_tool}
    own |= {"function": {**own["function"], "name": SEARCH_TOOL_NAME}} if "function" in own else {}
    own |= {"name": SEARCH_TOOL_NAME} if "name" in own else {}
    api.run_model(lambda _: [Call(SEARCH_TOOL_NAME, {"query": "x"}, "c9")])
    reply = api.ask(api.build_short_request(tools=[own]), stream=False)
    assert [call.name for call in reply.calls] == [SEARCH_TOOL_NAME]
    assert [api.tool_name(tool) for tool in api.upstream.last_request.json["tools"]] == [SEARCH_TOOL_NAME]
