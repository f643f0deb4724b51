"""What recorded requests would have saved is what a running proxy does save."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands.demo.replay import conversations
from clara_proxy.proxy.rehearsal import Recorded, rehearse, requests
from clara_proxy.proxy.stores import accounting
from clara_proxy.proxy.wires import chat, messages, responses
from clara_proxy.proxy.wires.wire import Wire
from clara_proxy.tests.proxy.inprocess import InProcess
from clara_proxy.tests.running import tool_chat
from clara_proxy.tests.wires import as_messages, as_responses

Json = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]


def listed(recording: Json) -> list[Recorded]:
    return list(requests(recording, "gpt-4o"))


@pytest.mark.parametrize(
    ("body", "protocol", "wire"),
    [
        (tool_chat(), "chat", chat.WIRE),
        (tool_chat(tools=TOOLS), "chat", chat.WIRE),
        (as_responses(tool_chat(tools=TOOLS)), "responses", responses.WIRE),
        (as_messages(tool_chat(tools=TOOLS)), "messages", messages.WIRE),
    ],
)
def test_a_row_is_the_one_that_the_proxy_would_write(tmp_path: Path, body: Json, protocol: str, wire: Wire) -> None:
    (recorded,) = listed(body)
    assert (recorded.protocol, recorded.body) == (protocol, body)
    row = asyncio.run(rehearse(recorded, Settings(data_dir=tmp_path)))
    with InProcess(tmp_path, wire=wire, offers=bool(body.get("tools"))) as proxy:
        real = proxy.send(orjson.dumps(body)).row
    assert row.saved_tokens > 1000
    assert row.tokens_received == real.tokens_received
    assert abs(row.tokens_sent - real.tokens_sent) <= 4  # the marker names the original of another owner
    assert accounting.check(row) == []


def test_a_conversation_stands_for_its_requests() -> None:
    conversation = next(conversations())
    made = listed(conversation)
    turns = [at for at, one in enumerate(conversation["messages"]) if one["role"] == "assistant" and at]
    assert [one.body["messages"] for one in made] == [conversation["messages"][:at] for at in turns]
    assert {one.project for one in made} == {conversation["agent"]}
    assert {one.session for one in made} == {str(conversation["id"])}
    assert not {"id", "agent"} & made[0].body.keys()


def test_one_turn_of_several_items_is_one_request() -> None:
    asked: Json = {"type": "message", "role": "user", "content": "why?"}
    call: Json = {"type": "function_call", "call_id": "c", "name": "logs", "arguments": "{}"}
    answer: Json = {"type": "function_call_output", "call_id": "c", "output": "..."}
    said: Json = {"type": "message", "role": "assistant", "content": "so"}
    made = listed({"model": "m", "input": [asked, {"type": "reasoning"}, call, call, answer, answer, said]})
    assert [len(one.body["input"]) for one in made] == [1, 6]


def test_a_batch_file_names_its_protocol() -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    (made,) = listed({"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert made == Recorded("chat", body, "one")


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match="messages"):
        listed({"prompt": "x"})
