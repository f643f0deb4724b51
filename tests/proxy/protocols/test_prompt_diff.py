"""The parts of a prompt diff add up to the tokens received and sent, in every protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.json_edit import ArrayEdit, BodyChanges, StringEdit
from clara_proxy.proxy.protocols.json_edit import Path as Place
from clara_proxy.proxy.protocols.json_types import Json
from clara_proxy.proxy.protocols.prompt_diff import PromptDiff
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.tests.protocol_bodies import as_chat, as_messages, as_responses
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.running import tool_chat

VOCABULARY = get_token_counter("gpt-4o")
TOOLS = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]
every_protocol = pytest.mark.parametrize(
    ("adapter", "convert"),
    [(chat.ADAPTER, as_chat), (responses.ADAPTER, as_responses), (messages.ADAPTER, as_messages)],
)


def build_conversation() -> Json:
    """Return a conversation with two tool outputs that get shorter."""
    first = tool_chat(tools=TOOLS)
    second = tool_chat(text="\n".join(f"{line} ok" for line in range(900)))
    reply = {"role": "assistant", "content": "it was the disk"}
    return {**first, "messages": [*first["messages"], reply, *second["messages"]]}


@every_protocol
def test_tokens_outside_the_parts_precede_them(
    adapter: ProtocolAdapter, convert: Callable[[Json], Json], tmp_path: Path
) -> None:
    body = convert(build_conversation())
    with InProcessProxy(tmp_path, adapter=adapter, offer_tool=True) as proxy:
        sent = proxy.send(orjson.dumps(body))
    assert sent.context.prompt_diff is not None
    prompt = sent.context.prompt_diff.build_prompt(VOCABULARY)
    parts = list(prompt.iter_parts())[::-1]
    assert (prompt.received, prompt.sent) == (sent.row.tokens_received, sent.row.tokens_sent)
    assert len(parts) == len(body[adapter.elements_key])
    assert sum(part.sent < part.received for part in parts) == 2
    tool = VOCABULARY.count(orjson.dumps(adapter.build_expand_tool(body)).decode())
    before = prompt.received - sum(part.received for part in parts)
    assert prompt.sent - sum(part.sent for part in parts) == before + tool
    assert sum(part.starts_reply for part in parts) == 3  # two calls, and the answer between


@every_protocol
def test_inserted_elements_are_parts_of_their_own(adapter: ProtocolAdapter, convert: Callable[[Json], Json]) -> None:
    body = convert(build_conversation())
    diff = PromptDiff(adapter, body)
    inserted = body[adapter.elements_key][1]
    diff.record_changes(
        {}, BodyChanges({}, {(adapter.elements_key,): ArrayEdit(insertions={1: [inserted]})}, 0), 5_000, 5_100
    )
    parts = list(diff.build_prompt(VOCABULARY).iter_parts())[::-1]
    assert len(parts) == len(body[adapter.elements_key]) + 1
    assert (parts[1].received, parts[1].sent) == (0, parts[2].received)  # a copy of the element behind it
    assert parts[1].starts_reply
    assert all(part.received == part.sent for part in parts[2:])


def test_an_input_that_is_a_text_is_one_part() -> None:
    diff = PromptDiff(responses.ADAPTER, {"input": "one two three"})
    changes: dict[Place, StringEdit] = {("input",): StringEdit("one two three", "one")}
    diff.record_changes(changes, BodyChanges({}, {}, 0), 10, 8)
    assert [(part.received, part.sent) for part in diff.build_prompt(VOCABULARY).iter_parts()] == [(7, 5)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"cache_control": {"type": "ephemeral"}}, True),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, True),
        ({"tools": [{"name": "x", "cache_control": {"type": "ephemeral"}}]}, True),
        ({"system": "x"}, False),
    ],
)
def test_cache_control_is_found_anywhere_in_a_body(fields: dict[str, Any], expected: bool) -> None:
    body: Json = {"messages": [{"role": "user", "content": "hi"}], **fields}
    assert PromptDiff(messages.ADAPTER, body).build_prompt(VOCABULARY).has_breakpoints is expected
    assert PromptDiff(chat.ADAPTER, body).build_prompt(VOCABULARY).has_breakpoints is None


def test_a_failing_estimate_leaves_only_the_saved_cost_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with InProcessProxy(tmp_path) as proxy:
        context = proxy.send(orjson.dumps(tool_chat())).context
    context.usage = {"prompt_tokens": 900, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
    assert (context.build_row().saved_cost or 0.0) > 0.0

    def fail(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(PromptDiff, "build_prompt", fail)
    row = context.build_row()
    assert (row.saved_cost, row.billed_input) == (None, 900)
    assert row.cost is not None
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
