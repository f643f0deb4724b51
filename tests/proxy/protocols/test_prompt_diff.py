"""Where a prompt was changed: the places add up to what was received and sent, in every protocol."""

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
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.running import tool_chat
from clara_proxy.tests.wires import as_chat, as_messages, as_responses

COUNTED = get_token_counter("gpt-4o")
TOOLS = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]
every_wire = pytest.mark.parametrize(
    ("wire", "write"), [(chat.ADAPTER, as_chat), (responses.ADAPTER, as_responses), (messages.ADAPTER, as_messages)]
)


def growing() -> Json:
    """A conversation in which two answers of tools get shorter."""
    one, other = tool_chat(tools=TOOLS), tool_chat(text="\n".join(f"{at} ok" for at in range(900)))
    said = {"role": "assistant", "content": "it was the disk"}
    return {**one, "messages": [*one["messages"], said, *other["messages"]]}


@every_wire
def test_what_the_parts_do_not_hold_stands_before_them(
    wire: ProtocolAdapter, write: Callable[[Json], Json], tmp_path: Path
) -> None:
    body = write(growing())
    with InProcessProxy(tmp_path, adapter=wire, offer_tool=True) as proxy:
        sent = proxy.send(orjson.dumps(body))
    assert sent.context.prompt_diff is not None
    prompt = sent.context.prompt_diff.build_prompt(COUNTED)
    parts = list(prompt.iter_parts())[::-1]
    assert (prompt.received, prompt.sent) == (sent.row.tokens_received, sent.row.tokens_sent)
    assert len(parts) == len(body[wire.elements_key])
    assert sum(part.sent < part.received for part in parts) == 2
    tool = COUNTED.count(orjson.dumps(wire.build_expand_tool(body)).decode())
    before = prompt.received - sum(part.received for part in parts)
    assert prompt.sent - sum(part.sent for part in parts) == before + tool
    assert sum(part.starts_reply for part in parts) == 3  # two calls, and the answer between


@every_wire
def test_what_is_woven_in_stands_between(wire: ProtocolAdapter, write: Callable[[Json], Json]) -> None:
    body = write(growing())
    layout = PromptDiff(wire, body)
    woven = orjson.dumps(body[wire.elements_key][1])
    layout.record_changes(
        {}, BodyChanges({}, {(wire.elements_key,): ArrayEdit(insertions={1: [woven]})}, 0), 5_000, 5_100
    )
    parts = list(layout.build_prompt(COUNTED).iter_parts())[::-1]
    assert len(parts) == len(body[wire.elements_key]) + 1
    assert (parts[1].received, parts[1].sent) == (0, parts[2].received)  # it is the element behind it once more
    assert parts[1].starts_reply
    assert all(part.received == part.sent for part in parts[2:])


def test_an_input_that_is_a_text_is_one_part() -> None:
    layout = PromptDiff(responses.ADAPTER, {"input": "one two three"})
    changes: dict[Place, StringEdit] = {("input",): StringEdit("one two three", "one")}
    layout.record_changes(changes, BodyChanges({}, {}, 0), 10, 8)
    assert [(part.received, part.sent) for part in layout.build_prompt(COUNTED).iter_parts()] == [(7, 5)]


@pytest.mark.parametrize(
    ("more", "marked"),
    [
        ({}, False),
        ({"cache_control": {"type": "ephemeral"}}, True),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, True),
        ({"tools": [{"name": "x", "cache_control": {"type": "ephemeral"}}]}, True),
        ({"system": "x"}, False),
    ],
)
def test_a_mark_is_found_wherever_it_stands(more: dict[str, Any], marked: bool) -> None:
    body: Json = {"messages": [{"role": "user", "content": "hi"}], **more}
    assert PromptDiff(messages.ADAPTER, body).build_prompt(COUNTED).has_breakpoints is marked
    assert PromptDiff(chat.ADAPTER, body).build_prompt(COUNTED).has_breakpoints is None


def test_a_fault_in_our_sums_costs_the_figure_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with InProcessProxy(tmp_path) as proxy:
        visit = proxy.send(orjson.dumps(tool_chat())).context
    visit.usage = {"prompt_tokens": 900, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
    assert (visit.build_row().saved_cost or 0.0) > 0.0

    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(PromptDiff, "build_prompt", broken)
    row = visit.build_row()
    assert (row.saved_cost, row.billed_input) == (None, 900)
    assert row.cost is not None
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
