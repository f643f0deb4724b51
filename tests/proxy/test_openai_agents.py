"""OpenAI's Agents SDK runs its loop through the proxy and sees nothing of the hidden tool calls."""

from collections.abc import Callable, Generator
from typing import Any

import openai
import pytest
from agents import Agent, ModelSettings, OpenAIResponsesModel, RunConfig, Runner, function_tool
from agents.items import TResponseInputItem
from pydantic import BaseModel

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.expand_data import ORIGINAL
from clara_proxy.tests.proxy.protocols.responses_upstream import (
    Json,
    ResponsesUpstream,
    call,
    find_expand_results,
    find_marker_ids,
    message,
    reasoning,
)
from clara_proxy.tests.running import CLIENT_KEY, Proxy, run_proxy

ANSWER = '{"cause":"disk full","host":"web-1"}'
QUESTION = "Are you sure?"
ToolRuns = list[tuple[str, str]]  # name and argument of each tool run
SHOWN = "This text is already shown above."


class Verdict(BaseModel):
    cause: str
    host: str


def list_tool_results(request: Json) -> list[str]:
    """Return the names of the client's tools with results in a request."""
    names = {item["call_id"]: item["name"] for item in request["input"] if item.get("type") == "function_call"}
    outputs = [item for item in request["input"] if item.get("type") == "function_call_output"]
    return [names[item["call_id"]] for item in outputs if names.get(item["call_id"]) != TOOL_NAME]


def investigate(request: Json) -> list[Json]:
    """Read the log, look the host up, then answer."""
    results = list_tool_results(request)
    if not results:
        return [reasoning("where to look"), call("read_log", {"path": "/var/log/app"}, "call_log")]
    if len(results) == 1:
        return [reasoning("the host"), call("host_of", {"disk": "/dev/sda1"}, "call_host")]
    return [message(ANSWER)]


def expand_and_investigate(request: Json) -> list[Json]:
    """Reply as `investigate` does, but fetch the original back: once alone, and once beside the client's tool."""
    results, expand_count = list_tool_results(request), len(find_expand_results(request["input"]))
    if len(results) != 1:
        return investigate(request)
    expand_call = call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, f"call_expand_{expand_count}")
    return [expand_call] if expand_count == 0 else [*investigate(request), expand_call]


@pytest.fixture(scope="module")
def own_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """A proxy with no other clients."""
    with run_proxy(_upstream.url, tmp_path_factory.mktemp("agents")) as proxy:
        yield proxy


def create_agent(client: openai.AsyncOpenAI, tool_runs: ToolRuns) -> Agent[Any]:
    @function_tool
    def read_log(path: str) -> str:
        """Read a log."""
        tool_runs.append(("read_log", path))
        return ORIGINAL

    @function_tool
    def host_of(disk: str) -> str:
        """Return the host of a disk."""
        tool_runs.append(("host_of", disk))
        return "web-1"

    return Agent(
        name="operator",
        instructions="Find out why it failed.",
        model=OpenAIResponsesModel("gpt-4o", client),
        model_settings=ModelSettings(store=True),
        tools=[read_log, host_of],
        output_type=Verdict,
    )


Input = str | list[TResponseInputItem]


async def run_plain(agent: Agent[Any], request: Input, **options: Any) -> tuple[Any, list[str]]:
    return await Runner.run(agent, request, run_config=RunConfig(tracing_disabled=True), **options), []


async def run_streamed(agent: Agent[Any], request: Input, **options: Any) -> tuple[Any, list[str]]:
    result = Runner.run_streamed(agent, request, run_config=RunConfig(tracing_disabled=True), **options)
    events = [event async for event in result.stream_events()]
    assert TOOL_NAME not in str(events)
    return result, [event.data.type for event in events if event.type == "raw_response_event"]


def list_items(result: Any) -> list[Json]:
    """Return all items of a run."""
    return [item.to_input_item() for item in result.new_items]


@pytest.mark.parametrize("run", [run_plain, run_streamed])
@pytest.mark.parametrize("by_id", [False, True], ids=["whole input", "by reply id"])
async def test_agent_loop_is_the_same_as_without_the_proxy(
    upstream: FaultyUpstream, own_proxy: Proxy, run: Callable[..., Any], by_id: bool
) -> None:
    async def run_twice(url: str) -> tuple[ToolRuns, Any, list[str]]:
        tool_runs: ToolRuns = []
        key = f"{CLIENT_KEY}-{run.__name__}-{by_id}"
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            agent = create_agent(client, tool_runs)
            first, first_events = await run(agent, "Why did it fail?", auto_previous_response_id=by_id)
            if by_id:
                second, second_events = await run(agent, QUESTION, previous_response_id=first.last_response_id)
            else:
                items = [*first.to_input_list(), {"role": "user", "content": QUESTION}]
                second, second_events = await run(agent, items)
        assert isinstance(first.final_output, Verdict)
        outputs = [first.final_output, list_items(first), list_items(second)]
        return tool_runs, outputs, [*first_events, *second_events]

    direct_state = ResponsesUpstream(upstream, investigate)
    direct = await run_twice(f"{upstream.url}/v1")
    assert len(direct_state.contexts) == 4
    proxied_state = ResponsesUpstream(upstream, expand_and_investigate)
    assert await run_twice(f"{own_proxy.url}/v1") == direct
    assert len(proxied_state.contexts) == 5  # one more, of the proxy
    assert [find_expand_results(context) for context in proxied_state.contexts[-2:]] == [[ORIGINAL, SHOWN]] * 2
    assert direct[0] == [("read_log", "/var/log/app"), ("host_of", "/dev/sda1")]
