"""The adapter of the Responses API: the turns and texts it reads, and what it changes in single replies."""

from collections.abc import Generator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.transcript import TextSlot, ToolCall, Turn
from clara_proxy.proxy.protocols import responses, responses_items
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.responses import ADAPTER
from clara_proxy.proxy.protocols.responses_reply import ResponsesReplyFilter
from clara_proxy.tests.conversations import Json, long_text, short_line
from clara_proxy.tests.proxy.inprocess import InProcessProxy, whole_request_settings
from clara_proxy.tests.proxy.invariants.cases import check_row
from clara_proxy.tests.proxy.protocols import responses_upstream
from clara_proxy.tests.proxy.protocols.responses_upstream import FILE, IMAGE, SHELL_TOOL, UNTOUCHED_ITEMS


def list_turns(body: Json) -> list[Any]:
    conversation = ADAPTER.read_conversation(body)
    assert conversation is not None
    return conversation.turns()


def test_text_input_is_one_message() -> None:
    (turn,) = list_turns({"input": "why?"})
    assert turn == Turn("user", (TextSlot(("input",), "why?"),))


@pytest.fixture(scope="module")
def in_process_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("responses"), adapter=ADAPTER) as proxy:
        yield proxy


@whole_request_settings
@given(long_text, short_line)
def test_text_input_stays_a_text(in_process_proxy: InProcessProxy, passage: str, question: str) -> None:
    body: Json = {"model": "gpt-4o", "input": f"{question}?\n\n<document>\n{passage}\n</document>"}
    sent = in_process_proxy.send(orjson.dumps(body), {"x-clara-min-tokens": "60"})
    text = orjson.loads(sent.forwarded)["input"]
    check_row(ADAPTER, sent, body)
    assert isinstance(text, str)
    assert text.startswith(f"{question}?\n\n<document>")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("type_field", [{}, {"type": "message"}])
def test_messages_hold_a_text_or_parts(role: str, type_field: Json) -> None:
    parts = [
        {"type": "input_text", "text": "a"},
        IMAGE,
        FILE,
        {"type": "output_text", "text": "b"},
        {"type": "refusal"},
    ]
    items = [{"role": role, "content": "x", **type_field}, {"role": role, "content": parts, **type_field}]
    text_turn, parts_turn = list_turns({"input": items})
    assert text_turn.role == parts_turn.role == {"developer": "system"}.get(role, role)
    assert text_turn.slots == (TextSlot(("input", 0, "content"), "x"),)
    assert parts_turn.slots == (
        TextSlot(("input", 1, "content", 0, "text"), "a"),
        TextSlot(("input", 1, "content", 3, "text"), "b"),
    )


CALLS: list[tuple[Json, Any, ToolCall, list[str]]] = [  # a call item, its output, its tool call, its texts
    ({"type": "function_call", "name": "f", "arguments": "{}"}, "out", ToolCall("f", "{}"), ["out"]),
    (
        {"type": "function_call", "name": "f", "arguments": "{}"},
        [{"type": "input_text", "text": "a"}, IMAGE, {"type": "input_text", "text": "b"}],
        ToolCall("f", "{}"),
        ["a", "b"],
    ),
    ({"type": "custom_tool_call", "name": "sql", "input": "select 1"}, "1", ToolCall("sql", "select 1"), ["1"]),
    (
        {"type": "shell_call", "action": {"commands": ["ls", "cat x"], "timeout_ms": None}},
        [{"stdout": "a", "stderr": "b", "outcome": {"type": "exit", "exit_code": 0}}, {"stdout": "c", "stderr": ""}],
        ToolCall("shell", '{"command":"ls\\ncat x"}'),
        ["a", "b", "c", ""],
    ),
    (
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["cat", "x"]}},
        '{"stdout":"it must stay JSON"}',
        ToolCall("local_shell", '{"type":"exec","command":["cat","x"]}'),
        [],
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "x"}},
        "done",
        ToolCall("apply_patch", '{"type":"delete_file","path":"x"}'),
        ["done"],
    ),
    (
        {"type": "computer_call", "action": {"type": "screenshot"}},
        {"type": "computer_screenshot", "image_url": "data:x"},
        ToolCall("computer", '{"type":"screenshot"}'),
        [],
    ),
]


@pytest.mark.parametrize(("call", "output", "tool_call", "texts"), CALLS)
def test_output_belongs_to_its_call(call: Json, output: Any, tool_call: ToolCall, texts: list[str]) -> None:
    output_item = {"type": f"{call['type']}_output", "call_id": "c", "output": output}
    call_turn, output_turn = list_turns({"input": [{**call, "call_id": "c", "id": "fc_1"}, output_item]})
    assert (call_turn.role, call_turn.slots) == ("system", ())
    assert (output_turn.role, output_turn.call) == ("tool", tool_call)
    assert [slot.text for slot in output_turn.slots] == texts
    for slot in output_turn.slots:
        value: Any = {"input": [call, output_item]}
        for key in slot.path:
            value = value[key]
        assert value == slot.text


@pytest.mark.parametrize("item", UNTOUCHED_ITEMS)
def test_unknown_item_has_no_texts(item: Json) -> None:
    assert list_turns({"input": [item]})[0][:2] == ("system", ())
    assert responses_items.fingerprint_item(item) is None


def test_counted_texts_are_all_that_the_model_reads() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "question"}, IMAGE]},
        *UNTOUCHED_ITEMS[:2],
        {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": "out"},
        UNTOUCHED_ITEMS[3],
    ]
    body: Json = {"instructions": "be brief", "input": items, "tools": [SHELL_TOOL], "previous_response_id": "resp_1"}
    conversation = ADAPTER.read_conversation(body)
    assert conversation is not None
    tools = orjson.dumps(SHELL_TOOL).decode()
    assert sorted(conversation.texts()) == sorted(["be brief", "question", "x", "x", "f", "{}", "out", tools])
    assert (conversation.element_count, conversation.overhead_tokens, conversation.agentic) == (6, 3 + 6 * 4, True)


UNKNOWN_INPUTS: list[Any] = [
    *(None, 1, True, {}, {"role": "user"}, [None], ["x"], [1], [[]], [{"role": "narrator"}], [{}]),
]


@pytest.mark.parametrize("field", UNKNOWN_INPUTS)
def test_input_of_another_shape_is_not_read(field: Any) -> None:
    assert ADAPTER.read_conversation({"input": field}) is None
    assert ADAPTER.read_conversation({}) is None


@pytest.mark.parametrize("event", [b": keepalive\n\n", b"data: [DONE]\n\n", b"data: {\n\n", b"\n\n", b'data: "x"\n\n'])
def test_unknown_event_passes_unchanged(event: bytes) -> None:
    assert ADAPTER.create_reply_filter().filter_event(event) == event


def test_other_lines_stay_when_an_event_gets_a_new_number() -> None:
    reply_filter = ADAPTER.create_reply_filter()
    expand_call = responses_upstream.call(TOOL_NAME, {}, "c")
    first = {"type": "response.output_item.added", "output_index": 0, "sequence_number": 0, "item": expand_call}
    assert reply_filter.filter_event(b"data: " + orjson.dumps(first) + b"\n\n") == b""
    event = b': hello\nid: 7\nevent: x\ndata: {"type": "x",\ndata: "sequence_number": 4}\n\n'
    assert reply_filter.filter_event(event) == (b': hello\nid: 7\nevent: x\ndata: {"type":"x","sequence_number":0}\n\n')


PROVIDER_OUTPUTS: list[list[Json]] = [
    [responses_upstream.web_search("x")],
    [{"type": "mcp_call"}, {"type": "file_search_call"}, {"type": "code_interpreter_call", "call_id": "x"}],
    [{"type": "shell_call", "call_id": "c"}, {"type": "shell_call_output", "call_id": "c"}],
    [{"type": "tool_search_call", "call_id": None, "execution": "server"}],
]
CLIENT_OUTPUTS: list[list[Json]] = [
    [responses_upstream.call("f", {}, "c")],
    [{"type": "custom_tool_call", "call_id": "c"}],
    [{"type": "computer_call", "call_id": "c"}],
    [{"type": "local_shell_call", "call_id": "c"}],
    [{"type": "apply_patch_call", "call_id": "c"}],
    [{"type": "mcp_approval_request", "id": "x"}],
    [{"type": "shell_call", "call_id": "c"}],
    [{"type": "tool_search_call", "call_id": "c", "execution": "client"}],
    [responses_upstream.call(TOOL_NAME, {}, "d", namespace="theirs")],
]


@pytest.mark.parametrize(
    ("output", "needs_client"),
    [*((output, False) for output in PROVIDER_OUTPUTS), *((output, True) for output in CLIENT_OUTPUTS)],
)
def test_next_round_waits_for_the_results_of_the_client(output: list[Json], needs_client: bool) -> None:
    reply_filter = ADAPTER.create_reply_filter()
    expand_call = responses_upstream.call(TOOL_NAME, {}, "expand")
    reply_filter.filter_reply({"status": "completed", "output": [*output, expand_call]})
    assert reply_filter.awaits_expansion is not needs_client
    assert [call.id for call in reply_filter.expand_calls] == ["expand"]


def test_result_repeats_the_caller_of_its_call() -> None:
    caller = {"type": "program", "caller_id": "prog_1"}
    reply_filter = ADAPTER.create_reply_filter()
    reply_filter.filter_reply({"output": [responses_upstream.call(TOOL_NAME, {}, "c", caller=caller)]})
    assert reply_filter.start_next_round(["x"])[-1] == {**responses_upstream.result("c", "x"), "caller": caller}


def test_errors_have_the_documented_shape() -> None:
    error = ApiError(400, "no", code="c", param="p")
    fields = {"message": "no", "type": "invalid_request_error", "param": "p", "code": "c"}
    assert orjson.loads(ADAPTER.encode_error(error))["error"] == fields
    name, data = ADAPTER.encode_error_event(error).split(b"\n", 1)
    event = orjson.loads(data.removeprefix(b"data: "))
    assert name == b"event: error"
    assert (event["type"], event["code"], event["message"], event["param"]) == ("error", "c", "no", "p")


# Unexpected shapes

Strategy = st.SearchStrategy[Any]
atoms: Strategy = st.none() | st.booleans() | st.integers(-3, 3)
atoms |= st.sampled_from(["", "x", "user", TOOL_NAME, "function_call", "completed"])
names = st.sampled_from(["type", "text", "name", "x"])
json_values: Strategy = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=6
)
TYPES = ["message", "function_call", "function_call_output", "shell_call", "shell_call_output", "reasoning", "x_call"]
FIELDS = ["role", "content", "output", "arguments", "action", "call_id", "id", "name", "status", "summary", "caller"]
EVENT_TYPES = [f"response.{name}" for name in ("created", "completed", "incomplete", "output_item.added", "x")]


def any_values(*field_names: str) -> dict[str, Strategy]:
    """Return fields with any JSON values."""
    return dict.fromkeys(field_names, json_values)


unexpected_items: Strategy = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(TYPES) | json_values, **any_values(*FIELDS)}
)
unexpected_lists: Strategy = json_values | st.lists(unexpected_items, max_size=4)
unexpected_bodies: Strategy = st.fixed_dictionaries(
    {"input": unexpected_lists}, optional=any_values("tools", "instructions", "conversation", "background")
)
unexpected_replies: Strategy = st.fixed_dictionaries(
    {"output": unexpected_lists}, optional=any_values("usage", "tools", "status", "id", "store")
)
unexpected_events: Strategy = st.fixed_dictionaries(
    {"type": st.sampled_from(EVENT_TYPES) | json_values},
    optional={
        "response": unexpected_replies | json_values,
        "item": unexpected_items | json_values,
        **any_values("output_index", "sequence_number"),
    },
)


@given(unexpected_bodies)
def test_unexpected_body_is_read_or_left_alone(body: Json) -> None:
    before = orjson.dumps(body)
    ADAPTER.build_expand_tool(body)
    if (conversation := ADAPTER.read_conversation(body)) is not None:
        assert len(conversation.turns()) == conversation.element_count
        assert all(isinstance(text, str) for text in conversation.texts())
        fingerprints = [ADAPTER.fingerprint_element(item) for item in responses.parse_items(body) or ()]
        assert all(fingerprint is None or isinstance(fingerprint, bytes) for fingerprint in fingerprints)
    assert orjson.dumps(body) == before


def use_finished_filter(reply_filter: ResponsesReplyFilter) -> None:
    """Call every method that is valid after the end of a reply."""
    results = ["x"] * len(reply_filter.expand_calls)
    assert reply_filter.usage is None or orjson.dumps(reply_filter.usage)
    if reply_filter.awaits_expansion:
        reply_filter.start_next_round(results)
        results = []
    orjson.dumps([reply_filter.list_visible_elements(), reply_filter.build_hidden_record(results)])


@given(st.lists(unexpected_events, max_size=6), unexpected_replies)
def test_unexpected_reply_does_not_break_the_filter(events: list[Json], reply: Json) -> None:
    reply_filter = ADAPTER.create_reply_filter()
    for event in events:
        output = reply_filter.filter_event(b"data: " + orjson.dumps(event) + b"\n\n")
        assert output == b"" or output.endswith(b"\n\n")
    use_finished_filter(reply_filter)
    reply_filter = ADAPTER.create_reply_filter()
    assert isinstance(reply_filter.filter_reply(reply), dict)
    use_finished_filter(reply_filter)
