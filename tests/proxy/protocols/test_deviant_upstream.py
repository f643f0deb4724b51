"""Whatever an upstream deviates in, the client gets the same text and calls as directly, and never the hidden tool.

`CLARA_DEVIANT_EXAMPLES` sets the number of examples for each protocol.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.protocols import json_types
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.proxy.protocols.deviant_streams import Call, Plan, encode_reply, list_client_calls
from clara_proxy.tests.proxy.protocols.deviations import Deviations, Json, correct_deviations, draw_deviations
from clara_proxy.tests.proxy.protocols.in_process_loop import ADAPTERS, FakeHandler, FakeReply, run_loop

EXPAND = "expand"
EXAMPLES = int(os.environ.get("CLARA_DEVIANT_EXAMPLES", "300"))
PHASES = [Phase.generate] if EXAMPLES > 1000 else [Phase.generate, Phase.shrink]  # shrinking takes minutes

hidden_plans = st.sampled_from([[EXPAND], ["Let me look. ", EXPAND], [EXPAND, EXPAND], ["a", "b", EXPAND]])
last_plans = st.sampled_from([
    ["Disk full."], ["client0"], ["Look: ", "client0", "client1"], ["client0", EXPAND], [EXPAND, "client0"],
    ["one ", EXPAND, "client0", EXPAND, "client1"],
])  # fmt: skip


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


def list_parts(data: bytes) -> list[Json]:
    """Return the parts of a reply, whole or streamed: messages, deltas, blocks, items."""
    text = data.decode().removeprefix("\ufeff")
    if text.lstrip()[:1] in ("{", ""):
        return [parse_part(text)] if text.strip() else []
    parts: list[Json] = []
    *events, rest = re.split(r"(?:\r\n|\n|\r(?!\n)){2,}", text)
    for event in [*events, rest]:
        lines = [line.removeprefix("data:") for line in event.splitlines() if line.startswith("data:")]
        payload = "\n".join(lines).strip()
        if payload and payload != "[DONE]":
            part = parse_part(payload)
            parts.append({} if event is rest and part == {"error": "not JSON"} else part)
    return parts


def parse_part(text: str) -> Json:
    """Parse an event or a reply. A client reports an error for one that is broken."""
    try:
        part: Json = orjson.loads(text)
    except ValueError:
        return {"error": "not JSON"}
    return part


def is_error(part: Json) -> bool:
    """Return True if the official clients raise an error at this part of a reply."""
    response: Json = part.get("response") or {}
    kinds = {part.get("type"), part.get("object")}
    return bool(part.get("error") or response.get("error") or kinds & {"error", "response.failed"})


class ClientView:
    """What a client reads: the text, the names of the calls, and their arguments, joined in order.

    A client that keeps calls apart `by_index` can read interleaved ones.
    """

    def __init__(self, protocol: str, data: bytes, *, by_index: bool = False) -> None:
        self.text, self.streamed_text = "", ""
        self.finish: object = None
        self.has_error = False
        self._arguments: dict[object, str] = {}
        self._names: dict[object, str] = {}
        self._call_ids = set[object]()
        self._by_index = by_index
        self._repeated_arguments: dict[object, str] = {}
        for part in list_parts(data):
            if is_error(part):
                self.has_error = True
                break
            getattr(self, f"_read_{protocol}")(part)
        self.call_names = list(dict.fromkeys(re.findall(r"client\d", " ".join(self._names.values()))))

    @property
    def arguments(self) -> str:
        """Return the arguments of the client's calls."""
        return "".join(text for key, text in self._arguments.items() if self._names.get(key) != TOOL_NAME)

    def _read_chat(self, part: Json) -> None:
        for choice in part.get("choices") or ():
            message: Json = choice.get("delta") or choice.get("message") or {}
            self._add_text(message.get("content"))
            self.finish = choice.get("finish_reason") or self.finish
            for call in message.get("tool_calls") or ():
                self._add_call(call.get("index"), call["function"].get("name"), call["function"].get("arguments"))

    def _read_messages(self, part: Json) -> None:
        delta: Json = part.get("delta") or {}
        content: Any = part.get("content") or [part.get("content_block") or {}]
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            self._add_text(block.get("text"))
            if block.get("type") == "tool_use":
                key = part.get("index") if self._by_index else None
                self._repeated_arguments[key] = orjson.dumps(block["input"]).decode() if block["input"] else ""
                self._add_call(part.get("index"), block["name"], block["input"])
        self._add_text(delta.get("text"))
        if delta.get("partial_json"):  # it replaces an input at the start of the block
            key = part.get("index") if self._by_index else None
            earlier = self._arguments.get(key, "")
            start = orjson.dumps({"city": "", "of": 0}).decode()[:2]
            is_start = delta["partial_json"].startswith(start)
            self._arguments[key] = earlier.removesuffix(self._repeated_arguments.get(key, "") if is_start else "\0")
            self._arguments[key] += delta["partial_json"]
        self.finish = delta.get("stop_reason") or part.get("stop_reason") or self.finish

    def _read_responses(self, part: Json) -> None:
        event_type = str(part.get("type", ""))
        if event_type == "response.output_text.delta":
            self.streamed_text += part["delta"]
        items = [part["item"]] if event_type == "response.output_item.done" else part.get("output") or []
        for item in items:
            for content in item.get("content") or ():
                self._add_text(content["text"])
            if item["type"] == "function_call" and item["call_id"] not in self._call_ids:
                self._call_ids.add(item["call_id"])
                self._add_call(None, item["name"], item["arguments"])
        response = part.get("response") or part
        if response.get("status") != "in_progress":
            self.finish = response.get("status") or self.finish

    def _add_text(self, content: object) -> None:
        parts: list[Any] = content if json_types.is_array(content) else [{"text": content}]
        self.text += "".join(str(part.get("text") or "") for part in parts)

    def _add_call(self, index: object, name: object, arguments: object) -> None:
        key = index if self._by_index else None
        self._names[key] = self._names.get(key, "") + str(name or "")
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode() if arguments else ""
        self._arguments[key] = self._arguments.get(key, "") + text


def check_forwarded(bodies: list[Json], handler: FakeHandler, plans: list[Plan]) -> None:
    """Check that every hidden call was answered once, and sent back with its result."""
    calls = [part for plan in plans for part in plan if isinstance(part, Call) and part.name == TOOL_NAME]
    assert [orjson.loads(call.arguments) for call in handler.calls] == [call.arguments for call in calls]
    hidden = [part for plan in plans[:-1] for part in plan if isinstance(part, Call)]
    assert orjson.dumps(bodies[-1]).count(b"the original") == len(hidden)
    assert len({call.id for call in handler.calls}) == len(handler.calls)


def remove_hidden_arguments(arguments: str, plan: Plan) -> str:
    """Return the joined arguments of a reply's calls without those of the hidden calls."""
    for call in plan:
        if isinstance(call, Call) and call.name == TOOL_NAME:
            arguments = arguments.replace(orjson.dumps(call.arguments).decode(), "", 2)
    return arguments


def check_example(
    protocol: str, plans: list[list[str]], deviations: list[Deviations], pieces: int, *, stream: bool
) -> None:
    """Run one conversation and compare what the client gets with what it would get directly."""
    built = [build_plan(names, number) for number, names in enumerate(plans)]
    encoded = [
        encode_reply(protocol, plan, deviation, number)
        for number, (plan, deviation) in enumerate(zip(built, deviations, strict=True))
    ]
    spare = encode_reply(protocol, ["The end."], correct_deviations(protocol), len(plans))
    replies = [FakeReply(body, pieces) for body in [*encoded, spare]]
    data, bodies, handler = run_loop(protocol, replies, stream=stream)
    assert TOOL_NAME.encode() not in data
    broken = next((number for number, each in enumerate(deviations) if each["break"] != "none"), None)
    if broken is None:
        assert len(bodies) == len(built)
        check_forwarded(bodies, handler, built)
    by_index = deviations[min(len(bodies), len(deviations)) - 1]["interleaved"]
    direct = [ClientView(protocol, body.data, by_index=by_index) for body in [*encoded, spare][: len(bodies)]]
    view, last = ClientView(protocol, data, by_index=by_index), direct[-1]
    if not (view.has_error and data.lstrip()[:1] == b"{"):  # an error in place of a whole reply
        assert view.text == "".join(each.text for each in direct)
    if stream and all(not each["is_whole"] for each in deviations[: len(bodies)]):
        assert view.streamed_text == "".join(each.streamed_text for each in direct)
    if len(bodies) > len(built):
        return  # a call that was whole before the reply broke off has been answered
    body = encoded[len(bodies) - 1]
    if last.has_error or body.disconnects:
        assert view.has_error
        assert deviations[len(bodies) - 1]["break"] != "none"
        return
    if broken is not None and not body.data.strip():  # without any event, both an error and an empty reply are right
        assert not view.call_names
        return
    if broken is not None and data.lstrip()[:1] == b"{":  # a stream that broke off, as a whole reply
        assert view.has_error or not view.call_names or view.arguments.endswith("}")
        return
    assert not view.has_error
    assert view.call_names == last.call_names
    if broken is None:
        assert view.call_names == [call.name for call in list_client_calls(built[-1])]
        assert view.arguments == remove_hidden_arguments(last.arguments, built[-1])
    assert view.finish == last.finish


@pytest.mark.parametrize("protocol", list(ADAPTERS))
def test_client_gets_the_same_from_a_deviant_upstream(protocol: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        phases=PHASES,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data(), st.lists(hidden_plans, max_size=2), last_plans, st.booleans(), st.sampled_from([1, 7, 60, 10000]))
    def check(data: st.DataObject, hidden: list[list[str]], last: list[str], stream: bool, pieces: int) -> None:
        plans = [*hidden, last]
        deviations = [data.draw(draw_deviations(protocol)) for _ in plans]
        check_example(protocol, plans, deviations, pieces, stream=stream)

    check()


# Examples that failed once: the protocol, the plans, the deviations of each reply, and whether the client streams.
FAILED_ONCE: dict[str, tuple[str, list[list[str]], list[dict[str, Any]], bool]] = {
    "a round without any event": (
        "responses",
        [["expand"], ["The end."]],
        [{}, {"content_type": "", "break": "closed", "added": "absent"}],
        False,
    ),
    "an empty reply after a whole one": (
        "responses",
        [["a", "b", "expand"], ["expand"], ["client0", "expand"]],
        [{"is_whole": True}, {"content_type": "text/html", "break": "closed", "added": "absent"}, {}],
        False,
    ),
    "a last event without a blank line": (
        "chat",
        [["a", "expand"], ["expand", "client0"]],
        [{"last_event": "without blank line", "end_marker": "absent", "finish": "absent"}, {}],
        True,
    ),
    "two calls in turn, and the end in the last piece": (
        "chat",
        [["expand", "client0"]],
        [{"finish_chunk": "last piece", "interleaved": True}],
        False,
    ),
    "two calls in turn, each with its input twice": (
        "messages",
        [["a", "expand"], ["client0", "expand"]],
        [{}, {"interleaved": True, "input": "both"}],
        True,
    ),
}


@pytest.mark.parametrize("case", FAILED_ONCE)
def test_examples_that_failed_once_hold(case: str) -> None:
    protocol, plans, changes, stream = FAILED_ONCE[case]
    deviations = [{**correct_deviations(protocol), "is_whole": False, **change} for change in changes]
    check_example(protocol, plans, deviations, 10_000, stream=stream)
