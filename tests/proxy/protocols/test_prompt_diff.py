"""Where a prompt was changed: the places add up to what was received and sent, in every protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.compression.tokens import vocabulary
from clara_proxy.proxy.expand.tool import Changes
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.json_edit import Edit, Weave
from clara_proxy.proxy.protocols.json_edit import Path as Place
from clara_proxy.proxy.protocols.json_types import Json
from clara_proxy.proxy.protocols.prompt_diff import Layout
from clara_proxy.proxy.protocols.protocol import Wire
from clara_proxy.tests.proxy.inprocess import InProcess
from clara_proxy.tests.running import tool_chat
from clara_proxy.tests.wires import as_chat, as_messages, as_responses

COUNTED = vocabulary("gpt-4o")
TOOLS = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]
every_wire = pytest.mark.parametrize(
    ("wire", "write"), [(chat.WIRE, as_chat), (responses.WIRE, as_responses), (messages.WIRE, as_messages)]
)


def growing() -> Json:
    """A conversation in which two answers of tools get shorter."""
    one, other = tool_chat(tools=TOOLS), tool_chat(text="\n".join(f"{at} ok" for at in range(900)))
    said = {"role": "assistant", "content": "it was the disk"}
    return {**one, "messages": [*one["messages"], said, *other["messages"]]}


@every_wire
def test_what_the_parts_do_not_hold_stands_before_them(
    wire: Wire, write: Callable[[Json], Json], tmp_path: Path
) -> None:
    body = write(growing())
    with InProcess(tmp_path, wire=wire, offers=True) as proxy:
        sent = proxy.send(orjson.dumps(body))
    assert sent.visit.layout is not None
    prompt = sent.visit.layout.prompt(COUNTED)
    parts = list(prompt.parts())[::-1]
    assert (prompt.received, prompt.sent) == (sent.row.tokens_received, sent.row.tokens_sent)
    assert len(parts) == len(body[wire.elements])
    assert sum(part.sent < part.received for part in parts) == 2
    tool = COUNTED.count(orjson.dumps(wire.offer(body)).decode())
    before = prompt.received - sum(part.received for part in parts)
    assert prompt.sent - sum(part.sent for part in parts) == before + tool
    assert sum(part.begins for part in parts) == 3  # two calls, and the answer between


@every_wire
def test_what_is_woven_in_stands_between(wire: Wire, write: Callable[[Json], Json]) -> None:
    body = write(growing())
    layout = Layout(wire, body)
    woven = orjson.dumps(body[wire.elements][1])
    layout.changed({}, Changes({}, {(wire.elements,): Weave(into={1: [woven]})}, 0), 5_000, 5_100)
    parts = list(layout.prompt(COUNTED).parts())[::-1]
    assert len(parts) == len(body[wire.elements]) + 1
    assert (parts[1].received, parts[1].sent) == (0, parts[2].received)  # it is the element behind it once more
    assert parts[1].begins
    assert all(part.received == part.sent for part in parts[2:])


def test_an_input_that_is_a_text_is_one_part() -> None:
    layout = Layout(responses.WIRE, {"input": "one two three"})
    changes: dict[Place, Edit] = {("input",): Edit("one two three", "one")}
    layout.changed(changes, Changes({}, {}, 0), 10, 8)
    assert [(part.received, part.sent) for part in layout.prompt(COUNTED).parts()] == [(7, 5)]


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
    assert Layout(messages.WIRE, body).prompt(COUNTED).marked is marked
    assert Layout(chat.WIRE, body).prompt(COUNTED).marked is None


def test_a_fault_in_our_sums_costs_the_figure_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with InProcess(tmp_path) as proxy:
        visit = proxy.send(orjson.dumps(tool_chat())).visit
    visit.usage = {"prompt_tokens": 900, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
    assert (visit.row().saved_cost or 0.0) > 0.0

    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(Layout, "prompt", broken)
    row = visit.row()
    assert (row.saved_cost, row.billed_input) == (None, 900)
    assert row.cost is not None
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
