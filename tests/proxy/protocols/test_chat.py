from typing import Any

import orjson
import pytest

from clara_proxy.compression.transcript import TextSlot, ToolCall, Turn
from clara_proxy.proxy.protocols import chat
from clara_proxy.tests.conversations import Json


def asking(its_id: str, name: str, arguments: str) -> Json:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": its_id, "type": "function", "function": function}],
    }


def answering(its_id: str, content: Any) -> Json:
    return {"role": "tool", "tool_call_id": its_id, "content": content}


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_is_known(role: str) -> None:
    listed = [{"role": role, "content": "x"}]
    assert chat.parse_messages({"messages": listed}) is listed
    expected = {"developer": "system", "function": "tool"}.get(role, role)
    assert chat.build_turns(listed)[0].role == expected


ODD: list[Json] = [
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


@pytest.mark.parametrize("body", ODD)
def test_another_shape_is_not_ours_to_judge(body: Json) -> None:
    assert chat.parse_messages(body) is None


def test_no_messages_are_messages() -> None:
    assert chat.parse_messages({"messages": []}) == []
    assert chat.build_turns([]) == []


@pytest.mark.parametrize(
    "content", [None, 1, True, {}, {"text": "x"}, [], [1, None, "x"], [{"text": 1}], [{"type": "text"}]]
)
def test_content_of_another_shape_has_no_slots(content: Any) -> None:
    assert chat.build_turns([{"role": "user", "content": content}]) == [Turn("user", ())]
    assert list(chat.iter_content_texts({"content": content})) == []


def test_parts_are_slots_and_pictures_are_not() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [
        {"type": "text", "text": "a"},
        picture,
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}},
    ]
    (turn,) = chat.build_turns([{"role": "user", "content": parts}])
    assert turn.slots == (
        TextSlot(("messages", 0, "content", 0, "text"), "a"),
        TextSlot(("messages", 0, "content", 2, "text"), "b"),
    )


def test_an_answer_knows_the_call_that_asked_for_it() -> None:
    found = chat.build_turns(
        [
            asking("a", "shell", '{"command":"ls"}'),
            asking("b", "view", "{}"),
            answering("a", "x"),
            answering("b", [{"type": "text", "text": "y"}]),
            answering("c", "z"),
        ]
    )
    assert [turn.call for turn in found[2:]] == [ToolCall("shell", '{"command":"ls"}'), ToolCall("view", "{}"), None]


def test_ids_that_repeat_mean_the_latest_call() -> None:
    found = chat.build_turns([asking("0", "one", ""), answering("0", "x"), asking("0", "two", ""), answering("0", "y")])
    assert [turn.call and turn.call.name for turn in found] == [None, "one", None, "two"]


def test_the_older_function_call_is_known_by_its_name() -> None:
    call: Json = {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": "{}"}}
    found = chat.build_turns([call, {"role": "function", "name": "find", "content": "x"}])
    assert found[1].call == ToolCall("find", "{}")


@pytest.mark.parametrize(
    "calls", [None, "x", {}, [1], [{}], [{"id": "a", "function": None}], [{"id": "a", "custom": {}}]]
)
def test_calls_of_another_shape_are_no_calls(calls: Any) -> None:
    listed: list[Json] = [{"role": "assistant", "tool_calls": calls}, answering("a", "x")]
    assert chat.build_turns(listed)[1].call is None


def test_the_context_is_all_text_that_the_model_reads() -> None:
    offered = {"type": "function", "function": {"name": "shell"}}
    body: Json = {
        "messages": [
            {"role": "user", "content": "question", "name": "me"},
            asking("a", "shell", '{"x":1}'),
            answering("a", "out"),
        ],
        "tools": [offered],
        "functions": "odd",
    }
    assert chat.list_counted_texts(body, body["messages"]) == [
        "question",
        "out",
        "shell",
        '{"x":1}',
        orjson.dumps(offered).decode(),
    ]
    assert chat.count_overhead(body["messages"]) == 3 + 3 * 4


def test_reading_changes_nothing() -> None:
    body: Json = {
        "messages": [asking("a", "shell", "{}"), answering("a", [{"type": "text", "text": "x"}])],
        "tools": [{}],
    }
    before = orjson.dumps(body)
    chat.build_turns(body["messages"])
    chat.list_counted_texts(body, body["messages"])
    assert orjson.dumps(body) == before
