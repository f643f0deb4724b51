"""A body that is parsed with the help of an earlier one reads as it does alone."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.protocols import known_bodies
from clara_proxy.proxy.protocols.json_codec import dumps_plain
from clara_proxy.proxy.protocols.known_bodies import KnownBodies
from clara_proxy.proxy.protocols.request_json import parse_request

Json = dict[str, Any]
Writer = Callable[[object], str]
WRITERS: list[Writer] = [
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    json.dumps,
    lambda value: json.dumps(value, indent=1),
]
TEXTS = st.text(st.sampled_from('aé😀"\\]},[:{ \n'), max_size=12)
MESSAGES = st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS | st.lists(TEXTS, max_size=2)})
FIELDS: list[Json] = [{}, {"model": "m"}, {"input": [], "metadata": {"messages": [1]}}]
LAST_FIELDS: list[Json] = [{}, {"stream": True}, {"tools": [{"required": ["a"]}]}, {"messages ": []}, {"n": 10**30}]
STARTS, ENDS = st.sampled_from(FIELDS), st.sampled_from(LAST_FIELDS)


@pytest.fixture(autouse=True)
def remember_short_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_bodies, "BLOCK_BYTES", 16)
    monkeypatch.setattr(known_bodies, "MIN_ELEMENTS", 1)
    monkeypatch.setattr(known_bodies, "MIN_CHECKPOINT_ELEMENTS", 2)


def assert_equals_whole_parse(known: KnownBodies, text: bytes, owner: str = "owner") -> None:
    parsed, expected = known.parse(owner, "messages", text), parse_request(text)
    assert parsed.body == expected
    assert list(parsed.body or ()) == list(expected or ())  # in the same order
    if parsed.element_texts:
        assert list(parsed.element_texts) == list(map(dumps_plain, (expected or {})["messages"]))


@settings(max_examples=80)
@given(st.data())
def test_growing_and_branching_bodies_are_parsed_as_a_whole(data: st.DataObject) -> None:
    known, messages = KnownBodies(), data.draw(st.lists(MESSAGES, min_size=1, max_size=8))
    write, start, end = data.draw(st.sampled_from(WRITERS)), data.draw(STARTS), data.draw(ENDS)
    for _ in range(data.draw(st.integers(2, 6))):
        kept = messages[: data.draw(st.integers(0, len(messages)))]
        messages = [*kept, *data.draw(st.lists(MESSAGES, max_size=3))]
        end = end if data.draw(st.integers(0, 3)) else data.draw(ENDS)
        text = write({**start, "messages": messages, **end}).encode()
        assert_equals_whole_parse(known, text, data.draw(st.sampled_from(["owner", "another"])))
        cut = data.draw(st.integers(0, len(text)))  # a broken or a changed body
        assert_equals_whole_parse(known, text[:cut] + data.draw(st.sampled_from([b"", b"]", b",", b"{}"])) + text[cut:])


MESSAGE = b'{"role":"user","content":"a message"}'


@pytest.mark.parametrize(
    "following",
    [
        b'{"messages":[%s,%s],"n":1,"messages":[]}',
        b'{"messages":[%s,%s],"n":1,"\\u006dessages":[1]}',
        b'{"messages":[%s,%s],"n":1,"messages":[1,2]}',
        b'{"messages":[%s,%s,],"n":1}',
        b'{"messages":[%s,%s],"n":1}]',
        b'{"messages":[%s,%s],[1],"n":1}',
        b'{"messages":[%s,%s],"n":1,"n":[2],"n":1}',
        b'{"messages":[%s,%s 1],"n":1}',
        b'{"messages":[%s,%s,"\\ud800"],"n":1}',
        b'{"messages":[%s,%s,{"content":"\xff"}],"n":1}',
        b' {"messages": [%s,%s] , "n":1 } ',
    ],
)
def test_unusual_body_after_a_known_one_is_parsed_as_a_whole(following: bytes) -> None:
    for first in (b'{"messages":[%s,%s],"n":1}', following):
        known = KnownBodies()
        assert_equals_whole_parse(known, first % (MESSAGE, MESSAGE))
        assert_equals_whole_parse(known, following % (MESSAGE, MESSAGE))
        assert_equals_whole_parse(known, following.replace(b"%s,%s", b"%s,%s,%s") % (MESSAGE, MESSAGE, MESSAGE))


def build_text(*contents: str) -> bytes:
    return orjson.dumps({"messages": [{"role": "user", "content": content} for content in contents], "n": 1})


def test_messages_are_shared_with_the_same_owner_only() -> None:
    known = KnownBodies()
    first, longer = build_text("one", "two", "three"), build_text("one", "two", "three", "four")
    messages = (known.parse("a", "messages", first).body or {})["messages"]
    other = (known.parse("b", "messages", longer).body or {})["messages"]
    same = (known.parse("a", "messages", longer).body or {})["messages"]
    branch = (known.parse("a", "messages", build_text("one", "two", "another")).body or {})["messages"]
    assert [message is earlier for message, earlier in zip(same, messages, strict=False)] == [True] * 3
    assert [message is earlier for message, earlier in zip(branch, messages, strict=True)] == [True, True, False]
    assert not any(message is earlier for message, earlier in zip(other, messages, strict=False))


def test_a_shared_start_stays_known_beside_many_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_bodies, "BLOCK_BYTES", 64)
    known = KnownBodies()
    first = (known.parse("a", "messages", build_text("one", "two", "three")).body or {})["messages"]
    for number in range(3 * known_bodies.MAX_BRANCHES):
        branch = (known.parse("a", "messages", build_text("one", "two", f"branch {number}")).body or {})["messages"]
        assert branch[0] is first[0]


def test_a_longer_number_is_another_message() -> None:
    known = KnownBodies()
    for last in (b"1", b"12", b"1,2", b"1.5"):
        assert_equals_whole_parse(known, b'{"messages":[%s,%s],"n":1}' % (MESSAGE, last))


def test_memory_is_bounded() -> None:
    known = KnownBodies(max_bytes=20_000)
    for number in range(200):
        assert_equals_whole_parse(known, build_text(f"conversation {number}", "two", "three"))
        assert_equals_whole_parse(known, build_text(f"conversation {number}", "two", "three", "four"))
    assert 0 < known.size <= 20_000
