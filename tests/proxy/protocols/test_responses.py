"""The adapter of the Responses API: what it reads, what it leaves alone, and what it makes of single replies."""

from typing import Any

import orjson
import pytest

from clara_proxy.compression.transcript import TextSlot, ToolCall, Turn
from clara_proxy.proxy.protocols import responses_items
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.responses import ADAPTER
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.protocols import responder

TOOL: Json = {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False}
PICTURE: Json = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
FILE: Json = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}


def read(body: Json) -> list[Any]:
    found = ADAPTER.read_conversation(body)
    assert found is not None
    return found.turns()


def test_an_input_that_is_a_text_is_one_message() -> None:
    (turn,) = read({"input": "why?"})
    assert turn == Turn("user", (TextSlot(("input",), "why?"),))


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("named", [{}, {"type": "message"}])
def test_messages_in_both_shapes(role: str, named: Json) -> None:
    parts = [
        {"type": "input_text", "text": "a"},
        PICTURE,
        FILE,
        {"type": "output_text", "text": "b"},
        {"type": "refusal"},
    ]
    plain, listed = read(
        {"input": [{"role": role, "content": "x", **named}, {"role": role, "content": parts, **named}]}
    )
    assert plain.role == listed.role == {"developer": "system"}.get(role, role)
    assert plain.slots == (TextSlot(("input", 0, "content"), "x"),)
    assert listed.slots == (
        TextSlot(("input", 1, "content", 0, "text"), "a"),
        TextSlot(("input", 1, "content", 3, "text"), "b"),
    )


CALLS: list[tuple[Json, Any, ToolCall, list[str]]] = [
    ({"type": "function_call", "name": "f", "arguments": "{}"}, "out", ToolCall("f", "{}"), ["out"]),
    (
        {"type": "function_call", "name": "f", "arguments": "{}"},
        [{"type": "input_text", "text": "a"}, PICTURE, {"type": "input_text", "text": "b"}],
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


@pytest.mark.parametrize(("call", "output", "known", "texts"), CALLS)
def test_an_output_knows_the_call_that_asked_for_it(call: Json, output: Any, known: ToolCall, texts: list[str]) -> None:
    answer = {"type": f"{call['type']}_output", "call_id": "c", "output": output}
    asked, answered = read({"input": [{**call, "call_id": "c", "id": "fc_1"}, answer]})
    assert (asked.role, asked.slots) == ("system", ())
    assert (answered.role, answered.call) == ("tool", known)
    assert [slot.text for slot in answered.slots] == texts
    for slot in answered.slots:
        at: Any = {"input": [call, answer]}
        for step in slot.path:
            at = at[step]
        assert at == slot.text


UNTOUCHED: list[Json] = [
    {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "x"}], "encrypted_content": "gAAA"},
    {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "x"}},
    {"type": "mcp_call", "id": "mcp", "name": "x", "arguments": "{}", "output": "x"},
    {"type": "image_generation_call", "id": "ig", "result": "AAAA"},
    {"type": "code_interpreter_call", "id": "ci", "code": "x", "outputs": [{"type": "logs", "logs": "x"}]},
    {"type": "item_reference", "id": "msg_1"},
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "whatever_comes_next", "text": "x"},
]


@pytest.mark.parametrize("item", UNTOUCHED)
def test_what_is_not_known_is_left_alone(item: Json) -> None:
    assert read({"input": [item]})[0][:2] == ("system", ())
    assert responses_items.fingerprint_item(item) is None


def test_the_context_is_all_text_that_the_model_reads() -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "question"}, PICTURE]}, *UNTOUCHED[:2]]
    items += [
        {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
    ]
    items += [{"type": "function_call_output", "call_id": "c", "output": "out"}, UNTOUCHED[3]]
    body: Json = {"instructions": "be brief", "input": items, "tools": [TOOL], "previous_response_id": "resp_1"}
    found = ADAPTER.read_conversation(body)
    assert found is not None
    assert found.texts() == ["be brief", "question", "x", "x", "f", "{}", "out", orjson.dumps(TOOL).decode()]
    assert (found.element_count, found.overhead_tokens, found.agentic) == (6, 3 + 6 * 4, True)


ODD: list[Any] = [None, 1, True, {}, {"role": "user"}, [None], ["x"], [1], [[]], [{"role": "narrator"}], [{}]]


@pytest.mark.parametrize("given", ODD)
def test_another_shape_is_not_ours_to_judge(given: Any) -> None:
    assert ADAPTER.read_conversation({"input": given}) is None
    assert ADAPTER.read_conversation({}) is None


@pytest.mark.parametrize("raw", [b": keepalive\n\n", b"data: [DONE]\n\n", b"data: {\n\n", b"\n\n", b'data: "x"\n\n'])
def test_what_is_no_event_of_the_api_passes_as_it_came(raw: bytes) -> None:
    assert ADAPTER.create_reply_filter().filter_event(raw) == raw


def test_lines_around_the_data_stay_when_an_event_is_numbered_anew() -> None:
    listener = ADAPTER.create_reply_filter()
    ours = responder.call(TOOL_NAME, {}, "c")
    first = {"type": "response.output_item.added", "output_index": 0, "sequence_number": 0, "item": ours}
    assert listener.filter_event(b"data: " + orjson.dumps(first) + b"\n\n") == b""
    raw = b': hello\nid: 7\nevent: x\ndata: {"type": "x",\ndata: "sequence_number": 4}\n\n'
    assert listener.filter_event(raw) == b': hello\nid: 7\nevent: x\ndata: {"type":"x","sequence_number":0}\n\n'


@pytest.mark.parametrize(
    ("output", "waits"),
    [
        ([responder.searched("x")], False),
        (
            [{"type": "mcp_call"}, {"type": "file_search_call"}, {"type": "code_interpreter_call", "call_id": "x"}],
            False,
        ),
        ([responder.call("f", {}, "c")], True),
        ([{"type": "custom_tool_call", "call_id": "c"}], True),
        ([{"type": "computer_call", "call_id": "c"}], True),
        ([{"type": "local_shell_call", "call_id": "c"}], True),
        ([{"type": "apply_patch_call", "call_id": "c"}], True),
        ([{"type": "mcp_approval_request", "id": "x"}], True),
        ([{"type": "shell_call", "call_id": "c"}], True),
        ([{"type": "shell_call", "call_id": "c"}, {"type": "shell_call_output", "call_id": "c"}], False),
        ([{"type": "tool_search_call", "call_id": "c", "execution": "client"}], True),
        ([{"type": "tool_search_call", "call_id": None, "execution": "server"}], False),
        ([responder.call(TOOL_NAME, {}, "d", namespace="theirs")], True),
    ],
)
def test_who_is_waited_for(output: list[Json], waits: bool) -> None:
    listener = ADAPTER.create_reply_filter()
    listener.filter_reply({"status": "completed", "output": [*output, responder.call(TOOL_NAME, {}, "ours")]})
    assert listener.awaits_expansion is not waits
    assert [call.id for call in listener.expand_calls] == ["ours"]


def test_the_caller_of_a_call_is_told_with_its_result() -> None:
    caller = {"type": "program", "caller_id": "prog_1"}
    listener = ADAPTER.create_reply_filter()
    listener.filter_reply({"output": [responder.call(TOOL_NAME, {}, "c", caller=caller)]})
    assert listener.start_next_round(["x"])[-1] == {
        "type": "function_call_output",
        "call_id": "c",
        "output": "x",
        "caller": caller,
    }


def test_errors_have_the_shape_that_the_api_documents() -> None:
    error = ApiError(400, "no", code="c", param="p")
    assert orjson.loads(ADAPTER.encode_error(error))["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "p",
        "code": "c",
    }
    name, data = ADAPTER.encode_error_event(error).split(b"\n", 1)
    told = orjson.loads(data.removeprefix(b"data: "))
    assert (name, told["type"], told["code"], told["message"], told["param"]) == (
        b"event: error",
        "error",
        "c",
        "no",
        "p",
    )
