"""Whatever an upstream deviates in, the client gets the same text and calls as directly, and never the hidden tool.

`CLARA_DEVIANT_EXAMPLES` sets the number of examples for each protocol.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.expand.loop import ToolLoop
from clara_proxy.proxy.expand.tool import ExpandTool
from clara_proxy.proxy.http import request_options
from clara_proxy.proxy.http.exchange import Exchange
from clara_proxy.proxy.http.request_context import RequestContext
from clara_proxy.proxy.protocols import chat, json_types, messages, responses, sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME, ExpandCall
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.tests.proxy.protocols.deviant_streams import (
    Call,
    Deviations,
    Plan,
    draw_deviations,
    encode_reply,
    list_client_calls,
)

Json = dict[str, Any]
ADAPTERS: dict[str, ProtocolAdapter] = {
    "chat": chat.ADAPTER,
    "messages": messages.ADAPTER,
    "responses": responses.ADAPTER,
}
OPTIONS = request_options.build_default_options(Settings())
EXPAND = "expand"
BODY = orjson.dumps({"messages": [], "input": []})
EXAMPLES = int(os.environ.get("CLARA_DEVIANT_EXAMPLES", "300"))

hidden_plans = st.sampled_from([[EXPAND], ["Let me look. ", EXPAND], [EXPAND, EXPAND], ["a", "b", EXPAND]])
last_plans = st.sampled_from([
    ["Disk full."], ["client0"], ["Look: ", "client0", "client1"], ["client0", EXPAND], [EXPAND, "client0"],
    ["one ", EXPAND, "client0", EXPAND, "client1"],
])  # fmt: skip


class FakeReply:
    """A reply of the upstream in pieces of a few bytes."""

    status = 200

    def __init__(self, body: bytes, content_type: str, piece_length: int) -> None:
        self._body, self.content_type, self._piece_length = body, content_type, piece_length
        self.headers = [(b"content-type", content_type.encode())] if content_type else []

    async def read(self) -> bytes:
        return self._body

    async def chunks(self) -> AsyncGenerator[bytes]:
        for start in range(0, len(self._body), self._piece_length):
            yield self._body[start : start + self._piece_length]


class FakeHandler:
    """Answers every call with the same text."""

    is_exhausted = False
    fetched_tokens = 0

    def __init__(self) -> None:
        self.calls: list[ExpandCall] = []

    async def answer_calls(self, calls: Sequence[ExpandCall]) -> list[str]:
        self.calls += calls
        return ["the original"] * len(calls)


def build_plan(names: Sequence[str], number: int) -> Plan:
    """Return a plan with the calls in place of their names."""
    plan: Plan = []
    for position, name in enumerate(names):
        call_id = f"call-{number}-{position}"
        if name == EXPAND:
            plan.append(Call(TOOL_NAME, {"id": "0123456789ab", "lines": "1-2"}, call_id))
        elif name.startswith("client"):
            plan.append(Call(name, {"city": f"Bonn {name}", "of": number}, call_id))
        else:
            plan.append(name)
    return plan


def run_loop(protocol: str, replies: list[FakeReply], *, stream: bool) -> tuple[bytes, list[Json], FakeHandler]:
    """Run a request through the tool loop. Return the client's bytes, the forwarded bodies, and the handler."""
    sent: list[bytes] = []
    bodies: list[Json] = []
    handler, adapter = FakeHandler(), ADAPTERS[protocol]

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def store_hidden(results: list[str]) -> None:
        orjson.dumps(expand_tool.reply_filter.build_hidden_record(results))

    @asynccontextmanager
    async def send_body(body: bytes) -> AsyncGenerator[FakeReply]:
        bodies.append(orjson.loads(body))
        yield replies[len(bodies) - 1]

    expand_tool = SimpleNamespace(
        adapter=adapter, reply_filter=adapter.create_reply_filter(), handler=handler, store_hidden=store_hidden
    )
    exchange = Exchange({"type": "http", "headers": []}, cast("Any", None), send)
    context = RequestContext("/v1/x", OPTIONS, model="gpt-4o", is_streamed=stream)
    loop = ToolLoop(exchange, context, cast("ExpandTool", expand_tool), strip_usage=False, default_window=128_000)
    asyncio.run(loop.run(cast("Any", send_body), BODY, lambda: BODY))
    return b"".join(sent), bodies, handler


def list_parts(protocol: str, data: bytes) -> list[Json]:
    """Return the parts of a reply, whole or streamed: messages, deltas, blocks, items."""
    if data.lstrip()[:1] == b"{":
        return [orjson.loads(data)]
    splitter = sse.EventSplitter()
    return [event for raw in [*splitter.feed(data), *splitter.flush()] if (event := sse.parse_data(raw))]


class ClientView:
    """What a client reads: the text, the names of the calls, and their arguments, joined in order."""

    def __init__(self, protocol: str, data: bytes) -> None:
        self.text, self.names, self.arguments = "", "", ""
        self.finish: object = None
        self._repeated_arguments = ""
        for part in list_parts(protocol, data):
            getattr(self, f"_read_{protocol}")(part)
        self.call_names = list(dict.fromkeys(re.findall(r"client\d", self.names)))

    def _read_chat(self, part: Json) -> None:
        for choice in part.get("choices") or ():
            message: Json = choice.get("delta") or choice.get("message") or {}
            self._add_text(message.get("content"))
            self.finish = choice.get("finish_reason") or self.finish
            for call in message.get("tool_calls") or ():
                self._add_call(call["function"].get("name"), call["function"].get("arguments"))

    def _read_messages(self, part: Json) -> None:
        delta: Json = part.get("delta") or {}
        content: Any = part.get("content") or [part.get("content_block") or {}]
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            self._add_text(block.get("text"))
            if block.get("type") == "tool_use":
                self._repeated_arguments = orjson.dumps(block["input"]).decode() if block["input"] else ""
                self._add_call(block["name"], block["input"])
        self._add_text(delta.get("text"))
        if delta.get("partial_json"):  # it replaces an input at the start of the block
            self.arguments = self.arguments.removesuffix(self._repeated_arguments) + delta["partial_json"]
            self._repeated_arguments = ""
        self.finish = delta.get("stop_reason") or part.get("stop_reason") or self.finish

    def _read_responses(self, part: Json) -> None:
        event_type = str(part.get("type", ""))
        items = [part["item"]] if event_type == "response.output_item.done" else part.get("output") or []
        for item in items:
            for content in item.get("content") or ():
                self._add_text(content["text"])
            if item["type"] == "function_call":
                self._add_call(item["name"], item["arguments"])
        response = part.get("response") or part
        if response.get("status") != "in_progress":
            self.finish = response.get("status") or self.finish

    def _add_text(self, content: object) -> None:
        parts: list[Any] = content if json_types.is_array(content) else [{"text": content}]
        self.text += "".join(str(part.get("text") or "") for part in parts)

    def _add_call(self, name: object, arguments: object) -> None:
        self.names += str(name or "")
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode() if arguments else ""
        self.arguments += text


def check_forwarded(bodies: list[Json], handler: FakeHandler, plans: list[Plan]) -> None:
    """Check that every hidden call was answered once, and sent back with its result."""
    calls = [part for plan in plans for part in plan if isinstance(part, Call) and part.name == TOOL_NAME]
    assert [orjson.loads(call.arguments) for call in handler.calls] == [call.arguments for call in calls]
    hidden = [part for plan in plans[:-1] for part in plan if isinstance(part, Call)]
    assert orjson.dumps(bodies[-1]).count(b"the original") == len(hidden)
    assert len({call.id for call in handler.calls}) == len(handler.calls)


def check_example(
    protocol: str, plans: list[list[str]], deviations: list[Deviations], pieces: int, *, stream: bool
) -> None:
    """Run one conversation and compare what the client gets with what the upstream meant."""
    built = [build_plan(names, number) for number, names in enumerate(plans)]
    encoded = [
        encode_reply(protocol, plan, deviation, number)
        for number, (plan, deviation) in enumerate(zip(built, deviations, strict=True))
    ]
    replies: list[FakeReply] = []
    for body, deviation in zip(encoded, deviations, strict=True):
        correct = "application/json" if deviation["is_whole"] else "text/event-stream"
        content_type = correct if deviation["content_type"] == "correct" else deviation["content_type"]
        replies.append(FakeReply(body, content_type, pieces))
    data, bodies, handler = run_loop(protocol, replies, stream=stream)
    assert TOOL_NAME.encode() not in data
    assert len(bodies) == len(built)
    view, last = ClientView(protocol, data), ClientView(protocol, encoded[-1])
    assert view.text == "".join(part for plan in built for part in plan if isinstance(part, str))
    calls = list_client_calls(built[-1])
    assert view.call_names == [call.name for call in calls]
    direct_arguments = last.arguments
    for call in built[-1]:
        if isinstance(call, Call) and call.name == TOOL_NAME:
            direct_arguments = direct_arguments.replace(orjson.dumps(call.arguments).decode(), "", 2)
    assert view.arguments == direct_arguments
    assert view.finish == last.finish
    check_forwarded(bodies, handler, built)


@pytest.mark.parametrize("protocol", list(ADAPTERS))
def test_client_gets_the_same_from_a_deviant_upstream(protocol: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data(), st.lists(hidden_plans, max_size=2), last_plans, st.booleans(), st.sampled_from([1, 7, 60, 10000]))
    def check(data: st.DataObject, hidden: list[list[str]], last: list[str], stream: bool, pieces: int) -> None:
        plans = [*hidden, last]
        deviations = [data.draw(draw_deviations(protocol)) for _ in plans]
        check_example(protocol, plans, deviations, pieces, stream=stream)

    check()
