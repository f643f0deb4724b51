"""LangChain's chat model runs a loop of tools through the proxy, and notices nothing of what the model asks between."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.test_expand_call import ORIGINAL, Json, asked_for, call, expansions, plays
from clara_proxy.tests.running import CLIENT_KEY, Proxy
from clara_proxy.tests.running import run_proxy as running

CAUSE = '{"cause":"disk full","host":"web-1"}'
Ask = Callable[[Any, list[BaseMessage]], AIMessage]


class Verdict(BaseModel):
    """Why it failed, and where."""

    cause: str
    host: str


@tool
def read_log(path: str) -> str:
    """Read a log."""
    return ORIGINAL


def plain(request: Json) -> Json:
    """Read the log, then answer: in words, or as the function that stands for a structured answer."""
    if not [one for one in request["messages"] if one["role"] == "tool"]:
        return {"content": None, "tool_calls": [call("read_log", {"path": "/var/log/app"}, "call_log")]}
    named = [one["function"]["name"] for one in request.get("tools", ())]
    if "Verdict" in named:
        return {"content": None, "tool_calls": [call("Verdict", {"cause": "disk full", "host": "web-1"}, "call_v")]}
    return {"content": CAUSE}


def curious(request: Json) -> Json:
    """Do the same, but for asking first for what was left out."""
    if asked_for(request) and not expansions(request):
        return {"content": None, "tool_calls": [call(TOOL_NAME, {"id": asked_for(request)[0]}, "call_ours")]}
    return plain(request)


@pytest.fixture(scope="module")
def fresh(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """A proxy that nobody else talks to."""
    with running(_upstream.url, tmp_path_factory.mktemp("langchain")) as made:
        yield made


def at_once(model: Any, said: list[BaseMessage]) -> AIMessage:
    answer = model.invoke(said)
    assert isinstance(answer, AIMessage)
    return answer


def in_pieces(model: Any, said: list[BaseMessage]) -> AIMessage:
    gathered: Any = None
    for one in model.stream(said):
        assert TOOL_NAME not in str(one)
        gathered = one if gathered is None else gathered + one
    return AIMessage(content=gathered.content, tool_calls=gathered.tool_calls)


def loop(model: Any, ask: Ask) -> list[BaseMessage]:
    """Let the model call its tool until it answers."""
    said: list[BaseMessage] = [HumanMessage("Why did it fail?")]
    bound = model.bind_tools([read_log])
    while not (answer := ask(bound, said)).content:
        said.append(answer)
        said += [ToolMessage(read_log.invoke(one["args"]), tool_call_id=one["id"]) for one in answer.tool_calls]
    return [*said, answer]


def model(url: str, key: str) -> Any:
    return ChatOpenAI(model="gpt-4o", base_url=f"{url}/v1", api_key=lambda: key, max_retries=0)


def told(messages: list[BaseMessage]) -> list[Json]:
    """Return what a loop holds, without the ids and the figures that every answer has of its own."""
    return [{"content": one.content, "calls": getattr(one, "tool_calls", None)} for one in messages]


@pytest.mark.parametrize("ask", [at_once, in_pieces])
def test_a_loop_of_tools_is_as_it_is_without_the_proxy(upstream: FaultyUpstream, fresh: Proxy, ask: Ask) -> None:
    plays(upstream, plain)
    expected = loop(model(upstream.url, CLIENT_KEY), ask)
    plays(upstream, curious)
    upstream.requests.clear()
    held = loop(model(fresh.url, f"{CLIENT_KEY}-{ask.__name__}"), ask)
    assert told(held) == told(expected)
    assert len(upstream.requests) == 3  # the loop asks twice; once more asked nobody but the proxy
    assert expansions(upstream.last_request.json) == [ORIGINAL]


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_a_structured_answer_comes_through_an_expansion(upstream: FaultyUpstream, fresh: Proxy, method: str) -> None:
    plays(upstream, curious)
    upstream.requests.clear()
    asking = model(fresh.url, f"{CLIENT_KEY}-{method}")
    said = loop(asking, at_once)[:-1]
    tools = {} if method == "function_calling" else {"tools": [read_log], "strict": True}
    verdict: Any = asking.with_structured_output(Verdict, method=method, **tools).invoke(said)
    parsed: Any = verdict if isinstance(verdict, Verdict) else verdict["parsed"]
    assert parsed == Verdict(cause="disk full", host="web-1")
    assert TOOL_NAME not in str(verdict)
