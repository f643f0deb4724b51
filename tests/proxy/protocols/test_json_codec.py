"""JSON that is rewritten keeps every other value: large numbers, repeated keys, lone surrogates, deep nesting."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.protocols import chat, json_codec, messages, offload, responses, sse
from clara_proxy.proxy.protocols.json_types import Json, parse_object, parse_object_exactly
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.tests.proxy.inprocess import InProcessProxy, whole_request_settings
from clara_proxy.tests.running import LOG_TEXT

spaces = st.sampled_from(["", " ", "\n  ", "\t"])
ODD_NUMBERS = (
    "1e400 -1E+400 2e-400 1e-7 1E5 1.0 1.50 0.00 -0 -0.0 0.1000000000000000055511151231257827 18446744073709551616"
    f" -9223372036854775809 123456789012345678 {'9' * 5000}"
)
numbers = st.one_of(
    st.integers(-(2**200), 2**200).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(ODD_NUMBERS.split()),
)
characters = st.one_of(
    st.characters(exclude_categories=()),
    st.sampled_from(["\ud83d", "\ude00", "😀", "\\", '"', "\x00", "\x7f", "\u2028", "/"]),
)


def escape(text: str, *, ascii_only: bool) -> str:
    """Return a JSON string; lone surrogates are escaped, because UTF-8 cannot hold them."""
    written = json.dumps(text, ensure_ascii=ascii_only)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", written)


strings = st.builds(escape, st.lists(characters, max_size=6).map("".join), ascii_only=st.booleans())


def join_object(pairs: list[tuple[str, str]], space: str) -> str:
    return "{" + ",".join(f"{space}{key}{space}:{space}{value}" for key, value in pairs) + space + "}"


def join_array(items: list[str], space: str) -> str:
    return "[" + ",".join(f"{space}{item}" for item in items) + space + "]"


keys = st.sampled_from(['"a"', '"b"', '"\\u0061"', '"content"', '"id"']) | strings
json_texts = st.recursive(
    st.sampled_from(["null", "true", "false"]) | numbers | strings,
    lambda inner: (
        st.builds(join_object, st.lists(st.tuples(keys, inner), max_size=4), spaces)
        | st.builds(join_array, st.lists(inner, max_size=4), spaces)
    ),
    max_leaves=12,
) | st.integers(200, 700).map(lambda depth: "[" * depth + "18446744073709551616" + "]" * depth)


def parse(text: bytes | str) -> Any:
    """Parse a JSON text without any loss: numbers as decimals, all values of a repeated key in order."""

    def group(pairs: list[tuple[str, Any]]) -> dict[str, list[Any]]:
        members: dict[str, list[Any]] = {}
        for key, value in pairs:
            members.setdefault(key, []).append(value)
        return members

    source = text if isinstance(text, str) else text.decode()
    return json.loads(source, object_pairs_hook=group, parse_float=Decimal, parse_int=Decimal)


@given(json_texts)
def test_a_value_is_written_as_it_was_read(text: str) -> None:
    assert parse(json_codec.dumps(json_codec.loads(text.encode()))) == parse(text)


@given(json_texts)
def test_a_value_that_was_parsed_for_reading_is_restored(text: str) -> None:
    value = json_codec.loads_readable(text.encode())
    assert parse(json_codec.dumps(json_codec.reload_exactly(text.encode(), value))) == parse(text)


@given(json_texts)
def test_a_value_for_reading_can_be_encoded(text: str) -> None:
    assert not re.search("[\ud800-\udfff]", json_codec.dumps(json_codec.loads_readable(text.encode())).decode())


@given(st.lists(strings).map(",".join))
def test_strings_have_the_same_canonical_form_in_either_reading(items: str) -> None:
    text = f"[{items}]".encode()
    canonical = json_codec.dumps_canonical(json_codec.loads(text))
    assert canonical == json_codec.dumps_canonical(json_codec.loads_readable(text))


def test_ordinary_text_is_parsed_by_orjson_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_codec, "_parse_exactly", None)
    text = orjson.dumps({"a": [1, 2.5, None, "é\n", {"b": 2**63}]})
    value = json_codec.loads(text)
    assert json_codec.reload_exactly(text, value) is value
    assert json_codec.dumps(value) == text


@pytest.mark.parametrize(
    "text",
    [b"NaN", b"[Infinity]", b"-Infinity", b"\xef\xbb\xbf{}", b'"\xed\xa0\x80"', b'{"a":1', b'"\n"', b"[1,]", b""],
)
def test_other_text_is_rejected(text: bytes) -> None:
    for function in (json_codec.loads, json_codec.loads_readable):
        with pytest.raises(ValueError, match=r"."):
            function(text)
    assert parse_object(text) is parse_object_exactly(text) is None


def test_a_text_nested_too_deeply_is_no_object() -> None:
    text = b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"
    assert parse_object(text) is parse_object_exactly(text) is None


def test_an_escaped_backslash_is_no_surrogate() -> None:
    assert json_codec.loads_readable(rb'"\ud83d\ude00 \\ud83d \ud83d\\ \ude00"') == "😀 \\ud83d �\\ �"


def test_halves_of_a_surrogate_pair_are_joined() -> None:
    assert json_codec.join_text(["a\ud83d", "\ude00b\ud83d"]) == "a😀b\ud83d"
    assert json_codec.join_text([]) == ""


def test_a_merge_keeps_other_repeated_keys() -> None:
    value = parse_object_exactly(b'{"a":1,"b":2,"a":3,"b":4}')
    assert value is not None
    assert parse(json_codec.dumps(json_codec.merge(value, {"b": 5}))) == parse('{"a":1,"a":3,"b":5}')
    assert json_codec.dumps(json_codec.merge({"a": 1}, {"b": 5}, {"b": 6})) == b'{"a":1,"b":6}'


async def test_a_long_text_is_rewritten_as_a_short_one_is() -> None:
    for text in (b"short", b"x" * (offload.INLINE_BYTES + 1)):
        assert await json_codec.rewrite(bytes.removesuffix, text, text[1:]) == text[:1]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("codec")) as proxy:
        yield proxy


REQUEST = (
    '{"model":"gpt-4o","x":%(odd)s,"messages":[{"role":"user","content":"why? \\ud83d","y":%(odd)s},'
    '{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",'
    '"function":{"name":"logs","arguments":"{}"},"z":%(odd)s}]},'
    '{"role":"tool","tool_call_id":"c1","content":%(log)s,"odd":%(odd)s}],"x":%(odd)s}'
)


@whole_request_settings
@given(json_texts)
def test_a_rewritten_request_keeps_every_other_value(in_process: InProcessProxy, odd: str) -> None:
    in_process.restart()
    plain = (REQUEST % {"odd": odd, "log": json.dumps(LOG_TEXT)}).encode()
    sent = in_process.send(plain)
    assert sent.row.saved_tokens > 1000, sent.context.skip_counts
    forwarded, expected = parse(sent.forwarded), parse(plain)
    compressed = forwarded["messages"][0][2]["content"]
    assert compressed != [LOG_TEXT]
    expected["messages"][0][2]["content"] = compressed
    assert forwarded == expected


def test_half_an_emoji_in_a_passage_does_not_stop_compression(in_process: InProcessProxy) -> None:
    in_process.restart()
    log = json.dumps(LOG_TEXT)[:-1] + '\\nthe disk is full \\ud83d"'
    sent = in_process.send((REQUEST % {"odd": "1", "log": log}).encode())
    assert sent.row.saved_tokens > 1000, sent.context.skip_counts


HIDDEN_CHAT_CALL = '{"id":"h","index":0,"type":"function","function":{"name":"clara_expand","arguments":"{}"}},'
CHAT_REPLY = (
    '{"id":"r","x":%(odd)s,"choices":[{"index":0,"y":%(odd)s,"message":{"role":"assistant","content":"\\ud83d",'
    '"z":%(odd)s,"tool_calls":[%(hidden)s{"id":"c","index":1,"type":"function","function":{"name":"f","arguments":"{}"},'
    '"odd":%(odd)s}]},"finish_reason":"tool_calls"}],"usage":{"n":1},"x":%(odd)s}'
)
HIDDEN_BLOCK = '{"type":"tool_use","id":"h","name":"clara_expand","input":{}},'
MESSAGES_REPLY = (
    '{"id":"r","x":%(odd)s,"content":[%(hidden)s{"type":"text","text":"\\ud83d","y":%(odd)s},'
    '{"type":"tool_use","id":"c","name":"f","input":{"z":%(odd)s}}],"stop_reason":"tool_use","usage":{"n":1},"x":%(odd)s}'
)
HIDDEN_ITEM = '{"type":"function_call","call_id":"h","name":"clara_expand","arguments":"{}"},'
RESPONSES_REPLY = (
    '{"id":"r","x":%(odd)s,"status":"completed","output":[%(hidden)s{"type":"function_call","call_id":"c","name":"f",'
    '"arguments":"\\ud83d","y":%(odd)s}],"usage":{"n":1},"x":%(odd)s}'
)
REPLIES: list[tuple[ProtocolAdapter, str, str]] = [
    (chat.ADAPTER, CHAT_REPLY, HIDDEN_CHAT_CALL),
    (messages.ADAPTER, MESSAGES_REPLY, HIDDEN_BLOCK),
    (responses.ADAPTER, RESPONSES_REPLY, HIDDEN_ITEM),
]
every_protocol = pytest.mark.parametrize(
    ("adapter", "template", "hidden"), REPLIES, ids=[adapter.name for adapter, _, _ in REPLIES]
)


@every_protocol
@given(json_texts)
def test_a_filtered_reply_keeps_every_other_value(
    adapter: ProtocolAdapter, template: str, hidden: str, odd: str
) -> None:
    reply = parse_object_exactly((template % {"odd": odd, "hidden": hidden}).encode())
    assert reply is not None
    visible = json_codec.dumps(adapter.create_reply_filter().filter_reply(reply))
    assert parse(visible) == parse(template % {"odd": odd, "hidden": ""})


CHAT_PIECE = (
    '{"id":"r","x":%(odd)s,"choices":[{"index":0,"y":%(odd)s,"delta":{"z":%(odd)s,"content":"\\ud83d","tool_calls":'
    '[{"index":%(index)s,"id":"c","function":{"name":"f","arguments":"{}"},"odd":%(odd)s}]}}],"x":%(odd)s}'
)
CHAT_HIDDEN_PIECE = '{"id":"r","choices":[{"index":0,"delta":{"tool_calls":[' + HIDDEN_CHAT_CALL[:-1] + "]}}]}"
BLOCK_EVENT = (
    '{"type":"content_block_start","x":%(odd)s,"index":%(index)s,"content_block":{"type":"text","y":%(odd)s},'
    '"x":%(odd)s}'
)
BLOCK_HIDDEN_EVENT = '{"type":"content_block_start","index":0,"content_block":' + HIDDEN_BLOCK[:-1] + "}"
ITEM_EVENT = (
    '{"type":"response.output_item.added","x":%(odd)s,"output_index":%(index)s,"item":{"type":"message","y":%(odd)s},'
    '"x":%(odd)s}'
)
ITEM_HIDDEN_EVENT = '{"type":"response.output_item.added","output_index":0,"item":' + HIDDEN_ITEM[:-1] + "}"
EVENTS: list[tuple[ProtocolAdapter, str, str]] = [
    (chat.ADAPTER, CHAT_PIECE, CHAT_HIDDEN_PIECE),
    (messages.ADAPTER, BLOCK_EVENT, BLOCK_HIDDEN_EVENT),
    (responses.ADAPTER, ITEM_EVENT, ITEM_HIDDEN_EVENT),
]


@pytest.mark.parametrize(("adapter", "template", "hidden"), EVENTS, ids=[adapter.name for adapter, _, _ in EVENTS])
@given(json_texts)
def test_a_renumbered_event_keeps_every_other_value(
    adapter: ProtocolAdapter, template: str, hidden: str, odd: str
) -> None:
    odd = odd.replace("\n", " ").replace("\r", " ")  # data is one line
    reply_filter = adapter.create_reply_filter()
    assert reply_filter.filter_event(sse.encode_event(hidden.encode())) == b""
    event = sse.encode_event((template % {"odd": odd, "index": 1}).encode())
    (data,) = [line[5:] for line in reply_filter.filter_event(event).splitlines() if line.startswith(b"data:")]
    assert parse(data) == parse(template % {"odd": odd, "index": 0})


def chat_pieces(*contents: str) -> Iterator[bytes]:
    for content in contents:
        choice = {"index": 0, "delta": {"content": content}}
        yield sse.encode_event(json_codec.dumps({"id": "r", "choices": [choice]}))


def block_pieces(*texts: str) -> Iterator[bytes]:
    start: Json = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield sse.encode_event(json_codec.dumps(start))
    for text in texts:
        delta = {"type": "text_delta", "text": text}
        event = {"type": "content_block_delta", "index": 0, "delta": delta}
        yield sse.encode_event(json_codec.dumps(event))


def chat_end(message: Json) -> Json:
    return {"id": "r", "choices": [{"index": 0, "delta": message, "finish_reason": "tool_calls"}]}


@pytest.mark.parametrize(
    ("adapter", "write"), [(chat.ADAPTER, chat_pieces), (messages.ADAPTER, block_pieces)], ids=["chat", "messages"]
)
def test_a_pair_split_over_two_events_is_one_character(
    adapter: ProtocolAdapter, write: Callable[..., Iterator[bytes]]
) -> None:
    split, whole = adapter.create_reply_filter(), adapter.create_reply_filter()
    for event in write("a\ud83d", "\ude00b"):
        assert split.filter_event(event) == event
    for event in write("a😀b"):
        whole.filter_event(event)
    prints = [adapter.fingerprint_element(each.list_visible_elements()[0]) for each in (split, whole)]
    assert prints[0] == prints[1]


def test_a_lone_surrogate_in_a_reply_does_not_reveal_a_hidden_call(tmp_path: Path) -> None:
    reply_filter = chat.ADAPTER.create_reply_filter()
    hidden = json.loads(HIDDEN_CHAT_CALL[:-1])
    event = sse.encode_event(json_codec.dumps(chat_end({"content": "\ud83d", "tool_calls": [hidden]})))
    visible = reply_filter.filter_event(event)
    assert b"clara_expand" not in visible
    assert b"\\ud83d" in visible
    assert reply_filter.awaits_expansion
