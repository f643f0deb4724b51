"""The LiteLLM callback, called by litellm: the messages that the upstream receives."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from clara_proxy.proxy.http import litellm_providers
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import short_chat, tool_chat


@pytest.fixture
def callback() -> Iterator[Any]:
    litellm = litellm_providers.import_litellm()
    instance = import_module("clara_proxy.proxy.integrations.litellm_callback").ClaraCallback(ratio=4)
    before = list(litellm.callbacks)
    litellm.callbacks = [instance]
    yield instance
    litellm.callbacks = before


async def send_chat(upstream: FaultyUpstream, chat: dict[str, Any]) -> list[dict[str, Any]]:
    """Send a chat through litellm and return the messages that the upstream received."""
    litellm = litellm_providers.import_litellm()
    endpoint: dict[str, Any] = {"api_base": f"{upstream.url}/v1", "api_key": "sk-0", "max_retries": 0}
    completion = await litellm.acompletion(**{**chat, "model": "openai/gpt-4o"}, **endpoint)
    await litellm.close_litellm_async_clients()
    assert completion.choices[0].message.content
    return list(upstream.last_request.json["messages"])


async def test_long_tool_output_is_compressed(callback: Any, upstream: FaultyUpstream) -> None:
    chat = tool_chat()
    sent = await send_chat(upstream, chat)
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"] == chat["messages"][1]["tool_calls"]
    assert "ERROR disk full" in sent[2]["content"]
    assert "left out" in sent[2]["content"]
    assert len(sent[2]["content"]) < len(chat["messages"][2]["content"]) / 2
    assert "left out" not in chat["messages"][2]["content"]


async def test_short_messages_are_sent_unchanged(callback: Any, upstream: FaultyUpstream) -> None:
    assert await send_chat(upstream, short_chat()) == short_chat()["messages"]


async def test_unknown_formats_are_left_unchanged(callback: Any) -> None:
    types = import_module("litellm.types.utils").CallTypes
    for call in ({"messages": [{"role": "unknown"}]}, {"messages": [object()]}, {"messages": "text"}, {}):
        assert await callback.async_pre_call_deployment_hook({"model": "m", **call}, types.acompletion) is None
    assert await callback.async_pre_call_deployment_hook({**tool_chat()}, types.aembedding) is None
