"""Whatever anybody sends on the Responses API, the adapter reads it or leaves it, and never fails."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.protocols import responses
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.responses import ADAPTER
from clara_proxy.proxy.protocols.responses_reply import ResponsesReplyFilter
from clara_proxy.tests.conversations import Json

Odd = st.SearchStrategy[Any]
atoms: Odd = st.none() | st.booleans() | st.integers(-3, 3)
atoms |= st.sampled_from(["", "x", "user", TOOL_NAME, "function_call", "completed"])
names = st.sampled_from(["type", "text", "name", "x"])
json_values: Odd = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=6
)
KINDS = ["message", "function_call", "function_call_output", "shell_call", "shell_call_output", "reasoning", "x_call"]
FIELDS = ["role", "content", "output", "arguments", "action", "call_id", "id", "name", "status", "summary", "caller"]
kinds = st.sampled_from(KINDS) | json_values


def optional(*named: str) -> dict[str, Odd]:
    return dict.fromkeys(named, json_values)


odd_items: Odd = st.fixed_dictionaries({}, optional={"type": kinds, **optional(*FIELDS)})
odd_lists: Odd = json_values | st.lists(odd_items, max_size=4)
odd_bodies: Odd = st.fixed_dictionaries(
    {"input": odd_lists}, optional=optional("tools", "instructions", "conversation", "background")
)
odd_replies: Odd = st.fixed_dictionaries(
    {"output": odd_lists}, optional=optional("usage", "tools", "status", "id", "store")
)
EVENTS = [f"response.{name}" for name in ("created", "completed", "incomplete", "output_item.added", "x")]
odd_events: Odd = st.fixed_dictionaries(
    {"type": st.sampled_from(EVENTS) | json_values},
    optional={
        "response": odd_replies | json_values,
        "item": odd_items | json_values,
        **optional("output_index", "sequence_number"),
    },
)


@given(odd_bodies)
def test_no_shape_is_too_odd(body: Json) -> None:
    before = orjson.dumps(body)
    ADAPTER.build_expand_tool(body)
    if (found := ADAPTER.read_conversation(body)) is not None:
        assert len(found.turns()) == found.element_count
        assert all(isinstance(text, str) for text in found.texts())
        marks = [ADAPTER.fingerprint_element(item) for item in responses.parse_items(body) or ()]
        assert all(mark is None or isinstance(mark, bytes) for mark in marks)
    assert orjson.dumps(body) == before


def heard_out(listener: ResponsesReplyFilter) -> None:
    """Do all that may be asked of a listener when its reply has ended."""
    results = ["x"] * len(listener.expand_calls)
    assert listener.usage is None or orjson.dumps(listener.usage)
    if listener.awaits_expansion:
        listener.start_next_round(results)
        results = []
    orjson.dumps([listener.list_visible_elements(), listener.build_hidden_record(results)])


@given(st.lists(odd_events, max_size=6), odd_replies)
def test_no_reply_is_too_odd(events: list[Json], reply: Json) -> None:
    listener = ADAPTER.create_reply_filter()
    for event in events:
        passed = listener.filter_event(b"data: " + orjson.dumps(event) + b"\n\n")
        assert passed == b"" or passed.endswith(b"\n\n")
    heard_out(listener)
    whole = ADAPTER.create_reply_filter()
    assert isinstance(whole.filter_reply(reply), dict)
    heard_out(whole)
