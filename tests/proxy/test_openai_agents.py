"""OpenAI's Agents SDK runs its whole loop through the proxy, and notices nothing of what the model asks in between."""

from collections.abc import Callable, Generator
from typing import Any

import openai
import pytest
from agents import Agent, ModelSettings, OpenAIResponsesModel, RunConfig, Runner, function_tool
from agents.items import TResponseInputItem
from pydantic import BaseModel

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.responder import Json, Responder, call, message, reasoning
from clara_proxy.tests.proxy.protocols.test_responses_expansion import ORIGINAL, asked_for, expansions
from clara_proxy.tests.running import CLIENT_KEY, Proxy
from clara_proxy.tests.running import run_proxy as running

CAUSE = '{"cause":"disk full","host":"web-1"}'
AGAIN = "Are you sure?"
Runs = list[tuple[str, str]]


class Verdict(BaseModel):
    cause: str
    host: str


def outputs(request: Json) -> list[str]:
    """Return the names of the client's tools that have answered in this request."""
    names = {item["call_id"]: item["name"] for item in request["input"] if item.get("type") == "function_call"}
    done = [item["call_id"] for item in request["input"] if item.get("type") == "function_call_output"]
    return [names[one] for one in done if names.get(one) != TOOL_NAME]


def plain(request: Json) -> list[Json]:
    """Read the log, then ask which host it was, then answer: what the model would do with the whole text before it."""
    done = outputs(request)
    if not done:
        return [reasoning("where to look"), call("read_log", {"path": "/var/log/app"}, "call_log")]
    if len(done) == 1:
        return [reasoning("the host"), call("host_of", {"disk": "/dev/sda1"}, "call_host")]
    return [message(CAUSE)]


def curious(request: Json) -> list[Json]:
    """Do the same, but for asking for what was left out: alone once, and once beside the client's tool."""
    done, had = outputs(request), len(expansions(request["input"]))
    ours = [call(TOOL_NAME, {"id": asked_for(request)[0]}, f"call_ours_{had}")] if done else []
    if len(done) == 1 and had == 0:
        return ours
    if len(done) == 1:
        return [*plain(request), *ours]
    return plain(request)


@pytest.fixture(scope="module")
def fresh(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """A proxy that nobody else talks to."""
    with running(_upstream.url, tmp_path_factory.mktemp("agents")) as made:
        yield made


def agent(client: openai.AsyncOpenAI, ran: Runs) -> Agent[Any]:
    @function_tool
    def read_log(path: str) -> str:
        """Read a log."""
        ran.append(("read_log", path))
        return ORIGINAL

    @function_tool
    def host_of(disk: str) -> str:
        """Say which host a disk belongs to."""
        ran.append(("host_of", disk))
        return "web-1"

    return Agent(
        name="operator",
        instructions="Find out why it failed.",
        model=OpenAIResponsesModel("gpt-4o", client),
        model_settings=ModelSettings(store=True),
        tools=[read_log, host_of],
        output_type=Verdict,
    )


async def whole(made: Agent[Any], said: str | list[TResponseInputItem], **more: Any) -> tuple[Any, list[str]]:
    return await Runner.run(made, said, run_config=RunConfig(tracing_disabled=True), **more), []


async def streamed(made: Agent[Any], said: str | list[TResponseInputItem], **more: Any) -> tuple[Any, list[str]]:
    result = Runner.run_streamed(made, said, run_config=RunConfig(tracing_disabled=True), **more)
    heard = [event async for event in result.stream_events()]
    assert TOOL_NAME not in str(heard)
    return result, [event.data.type for event in heard if event.type == "raw_response_event"]


def seen(result: Any) -> list[Json]:
    """Return everything that the loop holds of its run."""
    return [item.to_input_item() for item in result.new_items]


@pytest.mark.parametrize("run", [whole, streamed])
@pytest.mark.parametrize("by_id", [False, True], ids=["all again", "by the reply's id"])
async def test_a_whole_loop_is_as_it_is_without_the_proxy(
    upstream: FaultyUpstream, fresh: Proxy, run: Callable[..., Any], by_id: bool
) -> None:
    async def ran(url: str) -> tuple[Runs, Any, list[str]]:
        done: Runs = []
        key = f"{CLIENT_KEY}-{run.__name__}-{by_id}"
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            made = agent(client, done)
            first, events = await run(made, "Why did it fail?", auto_previous_response_id=by_id)
            if by_id:
                after, more = await run(made, AGAIN, previous_response_id=first.last_response_id)
            else:
                after, more = await run(made, [*first.to_input_list(), {"role": "user", "content": AGAIN}])
        assert isinstance(first.final_output, Verdict)
        return done, [first.final_output, seen(first), seen(after)], [*events, *more]

    straight = Responder(upstream, plain)
    expected = await ran(f"{upstream.url}/v1")
    assert len(straight.contexts) == 4
    through = Responder(upstream, curious)
    assert await ran(f"{fresh.url}/v1") == expected
    assert len(through.contexts) == 5  # one round more, which nobody saw
    assert [expansions(context) for context in through.contexts[-2:]] == [[ORIGINAL, ORIGINAL]] * 2
    assert expected[0] == [("read_log", "/var/log/app"), ("host_of", "/dev/sda1")]
