"""The real litellm calls the callback, and what it makes shorter is what goes over the wire."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from clara_proxy.config import offline
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import short_chat, tool_chat


@pytest.fixture
def callback() -> Iterator[Any]:
    offline.use_bundled_files()  # before litellm is imported, so that it looks for no prices elsewhere
    litellm: Any = import_module("litellm")
    made = import_module("clara_proxy.proxy.integrations.litellm_callback").ClaraCallback(ratio=4)
    before = list(litellm.callbacks)
    litellm.callbacks = [made]
    yield made
    litellm.callbacks = before


async def ask(upstream: FaultyUpstream, chat: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask through litellm; returns the messages as they arrived."""
    litellm: Any = import_module("litellm")
    where: dict[str, Any] = {"api_base": f"{upstream.url}/v1", "api_key": "sk-0", "max_retries": 0}
    answer = await litellm.acompletion(**{**chat, "model": "openai/gpt-4o"}, **where)
    await litellm.close_litellm_async_clients()
    assert answer.choices[0].message.content
    return list(upstream.last_request.json["messages"])


async def test_a_long_output_goes_up_shorter(callback: Any, upstream: FaultyUpstream) -> None:
    chat = tool_chat()
    sent = await ask(upstream, chat)
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"] == chat["messages"][1]["tool_calls"]
    assert "ERROR disk full" in sent[2]["content"]
    assert "left out" in sent[2]["content"]
    assert len(sent[2]["content"]) < len(chat["messages"][2]["content"]) / 2
    assert "left out" not in chat["messages"][2]["content"]


async def test_what_is_short_goes_up_as_it_is(callback: Any, upstream: FaultyUpstream) -> None:
    assert await ask(upstream, short_chat()) == short_chat()["messages"]


async def test_what_it_does_not_understand_is_left_alone(callback: Any) -> None:
    types = import_module("litellm.types.utils").CallTypes
    for wrong in ({"messages": [{"role": "nobody"}]}, {"messages": [object()]}, {"messages": "text"}, {}):
        assert await callback.async_pre_call_deployment_hook({"model": "m", **wrong}, types.acompletion) is None
    assert await callback.async_pre_call_deployment_hook({**tool_chat()}, types.aembedding) is None
