"""The adapter of chat completions: the messages it accepts, and the turns and texts it reads."""

from typing import Any

import orjson
import pytest

from clara_proxy.compression.transcript import TextSlot, ToolCall, Turn
from clara_proxy.proxy.protocols import chat
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.protocols import chat_upstream


def assistant_call(call_id: str, name: str, arguments: str) -> Json:
    call = chat_upstream.call(name, arguments, call_id)
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def tool_result(call_id: str, content: Any) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_is_accepted(role: str) -> None:
    messages = [{"role": role, "content": "x"}]
    assert chat.parse_messages({"messages": messages}) is messages
    expected = {"developer": "system", "function": "tool"}.get(role, role)
    assert chat.build_turns(messages)[0].role == expected


UNKNOWN_BODIES: list[Json] = [
    {},
    {"messages": None},
    {"messages": "text"},
    {"messages": {"role": "user"}},
    {"messages": [None]},
    {"messages": ["text"]},
    {"messages": [{}]},
    {"messages": [{"role": None}]},
    {"messages": [{"role": 1}]},
    {"messages": [{"role": ["user"]}]},
    {"messages": [{"role": {"user": 1}}]},
    {"messages": [{"role": "User", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x"}, {"role": "narrator"}]},
]


@pytest.mark.parametrize("body", UNKNOWN_BODIES)
def test_body_of_another_shape_is_not_read(body: Json) -> None:
    assert chat.parse_messages(body) is None


def test_empty_list_of_messages_is_accepted() -> None:
    assert chat.parse_messages({"messages": []}) == []
    assert chat.build_turns([]) == []


@pytest.mark.parametrize(
    "content", [None, 1, True, {}, {"text": "x"}, [], [1, None, "x"], [{"text": 1}], [{"type": "text"}]]
)
def test_content_of_another_shape_has_no_slots(content: Any) -> None:
    assert chat.build_turns([{"role": "user", "content": content}]) == [Turn("user", ())]
    assert list(chat.iter_content_texts({"content": content})) == []


def test_text_parts_are_slots_and_images_are_not() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [
        {"type": "text", "text": "a"},
        image,
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}},
    ]
    (turn,) = chat.build_turns([{"role": "user", "content": parts}])
    assert turn.slots == (
        TextSlot(("messages", 0, "content", 0, "text"), "a"),
        TextSlot(("messages", 0, "content", 2, "text"), "b"),
    )


def test_result_belongs_to_its_call() -> None:
    turns = chat.build_turns(
        [
            assistant_call("a", "shell", '{"command":"ls"}'),
            assistant_call("b", "view", "{}"),
            tool_result("a", "x"),
            tool_result("b", [{"type": "text", "text": "y"}]),
            tool_result("c", "z"),
        ]
    )
    assert [turn.call for turn in turns[2:]] == [ToolCall("shell", '{"command":"ls"}'), ToolCall("view", "{}"), None]


def test_repeated_id_belongs_to_the_latest_call() -> None:
    turns = chat.build_turns(
        [
            assistant_call("0", "one", ""),
            tool_result("0", "x"),
            assistant_call("0", "two", ""),
            tool_result("0", "y"),
        ]
    )
    assert [turn.call and turn.call.name for turn in turns] == [None, "one", None, "two"]


def test_deprecated_function_call_is_found_by_its_name() -> None:
    call: Json = {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": "{}"}}
    turns = chat.build_turns([call, {"role": "function", "name": "find", "content": "x"}])
    assert turns[1].call == ToolCall("find", "{}")


@pytest.mark.parametrize(
    "calls", [None, "x", {}, [1], [{}], [{"id": "a", "function": None}], [{"id": "a", "custom": {}}]]
)
def test_calls_of_another_shape_are_ignored(calls: Any) -> None:
    messages: list[Json] = [{"role": "assistant", "tool_calls": calls}, tool_result("a", "x")]
    assert chat.build_turns(messages)[1].call is None


def test_counted_texts_are_all_that_the_model_reads() -> None:
    tool = {"type": "function", "function": {"name": "shell"}}
    body: Json = {
        "messages": [
            {"role": "user", "content": "question", "name": "me"},
            assistant_call("a", "shell", '{"x":1}'),
            tool_result("a", "out"),
        ],
        "tools": [tool],
        "functions": "odd",
    }
    texts = chat.list_counted_texts(body, body["messages"])
    assert texts == ["question", "shell", '{"x":1}', "out", orjson.dumps(tool).decode()]
    assert chat.count_overhead(body["messages"]) == 3 + 3 * 4


def test_reading_does_not_change_the_body() -> None:
    body: Json = {
        "messages": [assistant_call("a", "shell", "{}"), tool_result("a", [{"type": "text", "text": "x"}])],
        "tools": [{}],
    }
    before = orjson.dumps(body)
    chat.build_turns(body["messages"])
    chat.list_counted_texts(body, body["messages"])
    assert orjson.dumps(body) == before
