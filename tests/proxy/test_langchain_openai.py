"""LangChain's chat model runs a tool loop through the proxy and sees nothing of the hidden tool calls."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.chat_upstream import (
    Json,
    call,
    find_expand_results,
    find_marker_ids,
    run_model,
)
from clara_proxy.tests.proxy.protocols.expand_data import ORIGINAL
from clara_proxy.tests.running import CLIENT_KEY, Proxy, run_proxy

ANSWER = '{"cause":"disk full","host":"web-1"}'
Ask = Callable[[Any, list[BaseMessage]], AIMessage]


class Verdict(BaseModel):
    """The cause of the failure and its host."""

    cause: str
    host: str


@tool
def read_log(path: str) -> str:
    """Read a log."""
    return ORIGINAL


def read_and_answer(request: Json) -> Json:
    """Read the log, then answer in text or with a call of the function of a structured answer."""
    if not [message for message in request["messages"] if message["role"] == "tool"]:
        return {"content": None, "tool_calls": [call("read_log", {"path": "/var/log/app"}, "call_log")]}
    tool_names = [tool["function"]["name"] for tool in request.get("tools", ())]
    if "Verdict" in tool_names:
        return {"content": None, "tool_calls": [call("Verdict", {"cause": "disk full", "host": "web-1"}, "call_v")]}
    return {"content": ANSWER}


def expand_and_answer(request: Json) -> Json:
    """Reply as `read_and_answer` does, but first fetch the original back."""
    if find_marker_ids(request) and not find_expand_results(request):
        return {
            "content": None,
            "tool_calls": [call(TOOL_NAME, {"id": find_marker_ids(request)[0]}, "call_expand")],
        }
    return read_and_answer(request)


@pytest.fixture(scope="module")
def own_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """A proxy with no other clients."""
    with run_proxy(_upstream.url, tmp_path_factory.mktemp("langchain")) as proxy:
        yield proxy


def invoke(model: Any, messages: list[BaseMessage]) -> AIMessage:
    answer = model.invoke(messages)
    assert isinstance(answer, AIMessage)
    return answer


def stream(model: Any, messages: list[BaseMessage]) -> AIMessage:
    message: Any = None
    for chunk in model.stream(messages):
        assert TOOL_NAME not in str(chunk)
        message = chunk if message is None else message + chunk
    return AIMessage(content=message.content, tool_calls=message.tool_calls)


def run_tool_loop(model: Any, ask: Ask) -> list[BaseMessage]:
    """Run the model's tool calls until it answers, and return all messages."""
    messages: list[BaseMessage] = [HumanMessage("Why did it fail?")]
    bound = model.bind_tools([read_log])
    while not (answer := ask(bound, messages)).content:
        messages.append(answer)
        messages += [
            ToolMessage(read_log.invoke(tool_call["args"]), tool_call_id=tool_call["id"])
            for tool_call in answer.tool_calls
        ]
    return [*messages, answer]


def create_model(url: str, key: str) -> Any:
    return ChatOpenAI(model="gpt-4o", base_url=f"{url}/v1", api_key=lambda: key, max_retries=0)


def list_contents(messages: list[BaseMessage]) -> list[Json]:
    """Return contents and calls, without the ids and usage of each reply."""
    return [{"content": message.content, "calls": getattr(message, "tool_calls", None)} for message in messages]


@pytest.mark.parametrize("ask", [invoke, stream])
def test_tool_loop_is_the_same_as_without_the_proxy(upstream: FaultyUpstream, own_proxy: Proxy, ask: Ask) -> None:
    run_model(upstream, read_and_answer)
    direct = run_tool_loop(create_model(upstream.url, CLIENT_KEY), ask)
    run_model(upstream, expand_and_answer)
    upstream.requests.clear()
    proxied = run_tool_loop(create_model(own_proxy.url, f"{CLIENT_KEY}-{ask.__name__}"), ask)
    assert list_contents(proxied) == list_contents(direct)
    assert len(upstream.requests) == 3  # two of the client and one of the proxy
    assert find_expand_results(upstream.last_request.json) == [ORIGINAL]


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_answer_follows_a_hidden_call(upstream: FaultyUpstream, own_proxy: Proxy, method: str) -> None:
    run_model(upstream, expand_and_answer)
    upstream.requests.clear()
    model = create_model(own_proxy.url, f"{CLIENT_KEY}-{method}")
    messages = run_tool_loop(model, invoke)[:-1]
    options = {} if method == "function_calling" else {"tools": [read_log], "strict": True}
    output: Any = model.with_structured_output(Verdict, method=method, **options).invoke(messages)
    verdict: Any = output if isinstance(output, Verdict) else output["parsed"]
    assert verdict == Verdict(cause="disk full", host="web-1")
    assert TOOL_NAME not in str(output)
