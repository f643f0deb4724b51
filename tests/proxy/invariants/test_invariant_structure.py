"""Invariants "structure" and "never worse": only passages change, and each replacement has fewer tokens."""

import re

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.protocols import chat, json_edit
from clara_proxy.proxy.protocols.json_edit import StringEdit
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import JSON_STYLES, InProcessProxy, JsonStyle, whole_request_settings
from clara_proxy.tests.proxy.invariants.cases import (
    LOW_MINIMUM,
    ProtocolCase,
    check_row,
    few_examples,
    json_styles,
    option_headers,
)
from clara_proxy.tests.proxy.invariants.compressors import long_chat


@whole_request_settings
@given(st.data(), json_styles, option_headers)
def test_only_passages_change_and_none_grows(
    case: ProtocolCase, data: st.DataObject, style: JsonStyle, headers: dict[str, str]
) -> None:
    before = data.draw(case.protocol.bodies)
    body = style(before)
    sent = case.plain.send(body, headers)
    after = orjson.loads(sent.forwarded)
    assert orjson.dumps(case.blank_texts(after)) == orjson.dumps(case.blank_texts(before))  # with the order of fields
    counter = get_token_counter(before["model"])
    for turn, new_turn in zip(case.list_turns(before), case.list_turns(after), strict=True):
        assert turn.role == new_turn.role
        for slot, new_slot in zip(turn.slots, new_turn.slots, strict=True):
            assert slot.path == new_slot.path
            assert slot.text == new_slot.text or counter.count(new_slot.text) < counter.count(slot.text)
            assert slot.text == new_slot.text or turn.role != "system"
    assert (sent.forwarded is body) == (sent.forwarded == body)
    assert (sent.context.engine == "none") == (sent.context.saved_tokens == 0)
    case.check_row(sent, before)


@few_examples
@given(st.data(), json_styles)
def test_hidden_tool_is_added_at_the_end_and_nothing_else(
    case: ProtocolCase, data: st.DataObject, style: JsonStyle
) -> None:
    before = data.draw(case.protocol.untagged_bodies)
    sent = case.offering.send(style(before), {"x-clara-min-tokens": "999999"})
    tool = case.protocol.adapter.build_expand_tool(before)
    after = before if tool is None else {**before, "tools": [*before["tools"], tool]}
    assert orjson.loads(sent.forwarded) == after
    case.check_row(sent, before)


@few_examples
@given(st.data(), json_styles)
def test_request_is_forwarded_byte_for_byte_without_a_compression(
    case: ProtocolCase, data: st.DataObject, style: JsonStyle
) -> None:
    body = style(data.draw(case.protocol.untagged_bodies))
    sent = case.plain.send(body, {"x-clara-min-tokens": "999999999"})
    assert sent.forwarded is body
    assert sent.row.saved_tokens == 0
    assert sent.context.skip_counts


@few_examples
@given(st.data(), json_styles, st.sampled_from(["off", "observe", "bypass"]))
def test_off_observe_and_bypass_forward_the_same_bytes(
    case: ProtocolCase, data: st.DataObject, style: JsonStyle, mode: str
) -> None:
    body = style(data.draw(case.protocol.bodies))
    headers = LOW_MINIMUM | ({"x-clara-bypass": "true"} if mode == "bypass" else {"x-clara-mode": mode})
    sent = case.plain.send(body, headers)
    assert sent.forwarded is body
    assert sent.row.saved_tokens == 0
    assert accounting.find_inconsistencies(sent.row) == []
    assert sent.row.mode_used == ("observe" if mode == "observe" else "off")
    if mode == "observe" and sent.row.would_send is not None:
        assert sent.row.would_send == case.plain.send(body, LOW_MINIMUM).row.tokens_sent


@whole_request_settings
@given(chats(tags=False), json_styles)
def test_other_roles_are_unchanged_when_roles_are_chosen(
    chat_proxy: InProcessProxy, body: Json, style: JsonStyle
) -> None:
    sent = chat_proxy.send(style(body), LOW_MINIMUM | {"x-clara-roles": "tool"})
    for before, after in zip(body["messages"], sent.messages, strict=True):
        assert before["role"] in ("tool", "function") or before == after


@whole_request_settings
@given(chats(), json_styles)
def test_live_instruction_is_unchanged(chat_proxy: InProcessProxy, body: Json, style: JsonStyle) -> None:
    instruction = "Tell me which worker timed out first, and say nothing else.\n" * 200
    body["messages"].append({"role": "user", "content": instruction.strip()})
    body["messages"].append({"role": "user", "content": [{"type": "text", "text": "And be quick."}]})
    assert chat_proxy.send(style(body), LOW_MINIMUM).messages[-2:] == body["messages"][-2:]


@whole_request_settings
@given(chats(), json_styles)
def test_editing_strings_changes_nothing_else(body: Json, style: JsonStyle) -> None:
    encoded = style(body)
    slots = [slot for turn in chat.build_turns(body["messages"]) for slot in turn.slots]
    parsed = orjson.loads(encoded)
    assert json_edit.apply_edits(parsed, {slot.path: StringEdit(slot.text, slot.text) for slot in slots}) == parsed
    edits = {slot.path: StringEdit(slot.text, f"<{slot.text}>") for slot in slots}
    edited = json_edit.apply_edits(parsed, edits)
    new_slots = [slot for turn in chat.build_turns(edited["messages"]) for slot in turn.slots]
    assert [slot.text for slot in new_slots] == [f"<{slot.text}>" for slot in slots]
    undo = {slot.path: StringEdit(slot.text, slot.text[1:-1]) for slot in new_slots}
    undone = json_edit.apply_edits(edited, undo)
    assert orjson.dumps(undone) == orjson.dumps(body)  # with the order of fields


@whole_request_settings
@given(chats(), json_styles, st.text(st.sampled_from('ab<>/: \n"\\é')), option_headers)
@example(
    {"model": "gpt-4o", "messages": []}, JSON_STYLES[0], "", {"x-clara-min-tokens": "400", "x-clara-roles": "tool"}
)
def test_tags_are_never_forwarded(
    chat_proxy: InProcessProxy, body: Json, style: JsonStyle, text: str, headers: dict[str, str]
) -> None:
    tagged = f"{text}<clara:keep>{text}</clara:keep>{text}<clara:compress>x{text}</clara:compress>"
    body["messages"].append({"role": "user", "content": [{"type": "text", "text": tagged}]})
    sent = chat_proxy.send(style(body), headers)
    check_row(chat.ADAPTER, sent, body)
    forwarded = sent.messages[-1]["content"][0]["text"]
    assert not re.search(r"</?clara:", forwarded)
    assert forwarded.startswith(text + text + text)


@whole_request_settings
@given(chats(), json_styles, option_headers)
def test_text_in_a_keep_tag_is_unchanged(
    chat_proxy: InProcessProxy, body: Json, style: JsonStyle, headers: dict[str, str]
) -> None:
    lines = "\n".join(f"line {number} of what must stay" for number in range(200))
    content = f"Look:\n<clara:keep>{lines}</clara:keep>\nWhich line is odd?"
    body["messages"].append({"role": "user", "content": content})
    assert chat_proxy.send(style(body), headers).messages[-1]["content"] == f"Look:\n{lines}\nWhich line is odd?"


@pytest.mark.parametrize(
    "messages",
    [None, "text", {}, [1], [{}], [{"role": "narrator"}], [{"role": ["user"], "content": "x"}], [{"role": None}]],
)
def test_unknown_shape_is_forwarded_unchanged(chat_proxy: InProcessProxy, messages: object) -> None:
    body = orjson.dumps({"model": "gpt-4o", "messages": messages})
    sent = chat_proxy.send(body)
    assert sent.forwarded is body
    assert sent.context.skip_counts == {"unknown-shape": 1}
    assert accounting.find_inconsistencies(sent.row) == []


def test_body_with_duplicate_keys_is_forwarded_unchanged(chat_proxy: InProcessProxy) -> None:
    messages = orjson.dumps(long_chat()["messages"])
    duplicate = b'"messages":[{"role":"user","content":"a"},1,{"content":"b"}]'
    body = b'{"model":"gpt-4o",' + duplicate + b',"messages":' + messages + b"}"
    chat_proxy.restart()
    sent = chat_proxy.send(body)
    assert sent.forwarded is body
    assert sent.context.skip_counts == {"failed": 1}
    assert accounting.find_inconsistencies(sent.row) == []
