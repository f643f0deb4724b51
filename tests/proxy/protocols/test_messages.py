"""The adapter of Anthropic's Messages API: what it takes for text, what it leaves alone, and the laws."""

import copy
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import ToolCall
from clara_proxy.proxy.protocols import messages
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests import running
from clara_proxy.tests.conversations import shell_command, short_line, tool_output
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.inprocess import (
    JSON_STYLES,
    InProcessProxy,
    JsonStyle,
    SentRequest,
    whole_request_settings,
)
from clara_proxy.tests.proxy.protocols.messages_upstream import Json, result, text, thinking, use
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy

SMALL = {"x-clara-min-tokens": "60"}
styles = st.sampled_from(JSON_STYLES)
PICTURE: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA" * 400}}
EPHEMERAL: Json = {"cache_control": {"type": "ephemeral"}}
CITED: Json = {"citations": {"enabled": True}}
SHELL: Json = {"name": "shell", "input_schema": {"type": "object"}}
READ = '{"command": "make"}'


def document(said: object, **more: Any) -> Json:
    plain: Json = {"type": "text", "media_type": "text/plain", "data": said}
    return {
        "type": "document",
        "source": plain if isinstance(said, str) else {"type": "content", "content": said},
        **more,
    }


def finding(*said: str, **more: Any) -> Json:
    return {
        "type": "search_result", "source": "https://x", "title": "a title", "content": [*map(text, said)], **more
    }  # fmt: skip


def body(*listed: Json, **more: Any) -> Json:
    return {"model": "claude-x", "max_tokens": 9, "messages": list(listed), **more}


def user(content: object) -> Json:
    return {"role": "user", "content": content}


def assistant(*content: Json) -> Json:
    return {"role": "assistant", "content": list(content)}


# what is read


def told(*listed: Json) -> list[tuple[str, list[str]]]:
    """Return roles and texts of the turns."""
    return [(turn.role, [slot.text for slot in turn.slots]) for turn in messages.build_turns(list(listed))]


def test_one_message_is_answers_words_and_documents() -> None:
    content = [
        result("t1", "one"),
        result("t2", [text("two"), PICTURE, document("three"), finding("four", "five")], is_error=True),
        document("six", title="A title", context="a context"),
        text("What is it?"),
        finding("seven", **EPHEMERAL),
    ]
    turns = messages.build_turns([assistant(thinking("hm"), use("shell", {"command": "make"}, "t2")), user(content)])
    assert [(turn.role, [slot.text for slot in turn.slots]) for turn in turns] == [
        ("assistant", []),
        ("tool", ["one"]),
        ("tool", ["two", "three", "four", "five"]),
        ("user", ["What is it?"]),
        ("tool", ["six"]),
        ("tool", ["seven"]),
    ]
    assert [turn.call for turn in turns] == [
        None, None, ToolCall("shell", '{"command":"make"}'), None,
        ToolCall("document", '{"title":"A title","context":"a context"}'), ToolCall("search_result", '{"title":"a title"}'),
    ]  # fmt: skip


def test_every_text_stands_where_its_slot_says() -> None:
    listed = [
        user("plain"),
        assistant(text("said"), thinking("not to be touched"), use("shell", {}, "t1")),
        user([result("t1", [text("a"), document([text("b"), PICTURE, text("c")])]), document("d"), finding("e")]),
    ]
    sent: Any = body(*listed)
    found: list[str] = []
    for turn in messages.build_turns(listed):
        for slot in turn.slots:
            at: Any = sent
            for step in slot.path:
                at = at[step]
            assert at == slot.text
            found.append(slot.text)
    assert found == ["plain", "said", "a", "b", "c", "d", "e"]


LEFT_ALONE: dict[str, Json] = {
    "thoughts": assistant(thinking(LOG_TEXT), {"type": "redacted_thinking", "data": LOG_TEXT}),
    "arguments": assistant(use("shell", {"command": LOG_TEXT}, "t1")),
    "what is to be cited": user([document(LOG_TEXT, **CITED), finding(LOG_TEXT, **CITED)]),
    "what is to be cited of an answer": user([result("t1", [document(LOG_TEXT, **CITED)])]),
    "files and addresses": user([
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": LOG_TEXT}},
        {"type": "document", "source": {"type": "url", "url": LOG_TEXT}},
        {"type": "document", "source": {"type": "file", "file_id": LOG_TEXT}},
        {"type": "container_upload", "file_id": LOG_TEXT},
    ]),
    "pictures": user([PICTURE, {"type": "image", "source": {"type": "url", "url": LOG_TEXT}}]),
    "the provider's own tools": assistant(
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": LOG_TEXT}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"type": "x", "encrypted_content": LOG_TEXT}]},
        {"type": "code_execution_tool_result", "tool_use_id": "s2", "content": {"stdout": LOG_TEXT, "return_code": 0}},
        {"type": "mcp_tool_result", "tool_use_id": "s3", "content": [text(LOG_TEXT)]},
    ),
    "what nobody knows yet": user([{"type": "hologram", "text": LOG_TEXT, "content": [text(LOG_TEXT)]}]),
    "the system's": {"role": "system", "content": LOG_TEXT},
}  # fmt: skip


@pytest.mark.parametrize("message", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_not_ours_to_shorten_goes_up_as_it_came(proxy_in: InProcessProxy, message: Json) -> None:
    plain = orjson.dumps(
        body(user("go on"), message, user("and?"), system=[{**text(LOG_TEXT), **EPHEMERAL}], tools=[SHELL])
    )
    sent = proxy_in.send(plain, {"x-clara-ratio": "10"})
    assert sent.forwarded is plain
    assert sent.row.tokens_received > 1000  # the system prompt is counted


def test_the_system_prompt_and_breakpoints_stay_where_they_are(proxy_in: InProcessProxy) -> None:
    listed = [user("why?"), assistant(use("shell", {}, "t1")), user([result("t1", LOG_TEXT, **EPHEMERAL)])]
    plain = body(*listed, system=[{**text(LOG_TEXT), **EPHEMERAL}], thinking={"type": "enabled", "budget_tokens": 1024})
    sent = orjson.loads(proxy_in.send(orjson.dumps(plain)).forwarded)
    assert sent.pop("messages")[2]["content"][0].pop("content") != LOG_TEXT
    blank = copy.deepcopy(plain)
    del blank["messages"]
    assert sent == blank


def test_pictures_and_signatures_are_no_text() -> None:
    listed = [
        user([PICTURE, text("What is it?")]),
        assistant(thinking("hm"), {"type": "redacted_thinking", "data": "A"}),
    ]
    assert messages.list_counted_texts(body(), listed) == ["What is it?", "hm"]


def test_what_tools_bring_and_what_they_are_asked_is_counted() -> None:
    searched = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u", "title": "found"}]}
    listed = [
        assistant(use("shell", {"command": "ls"}, "t1"), searched),
        user([result("t1", [text("a"), document("b")])]),
    ]
    counted = messages.list_counted_texts(body(system="be brief", tools=[SHELL]), listed)
    assert counted == ["be brief", "shell", '{"command":"ls"}', "found", "a", "b", orjson.dumps(SHELL).decode()]


# what tells a message from others


SAID = assistant(thinking("hm"), text("Look."), text(" There."), use("shell", {"b": "2", "a": ["1", {"c": 1.0}]}, "t1"))
SAME: dict[str, Json] = {
    "as it came": SAID,
    "without thoughts": assistant(*SAID["content"][1:]),
    "texts joined": assistant(text("Look. There."), SAID["content"][3]),
    "with a breakpoint": assistant(*SAID["content"][:3], {**SAID["content"][3], **EPHEMERAL}),
    "with fields of the client's": assistant({**SAID["content"][1], "citations": None}, *SAID["content"][2:]),
    "in another order": assistant(*SAID["content"][:3], use("shell", {"a": ["1", {"c": 1}], "b": "2"}, "t1")),
}


@pytest.mark.parametrize("other", SAME.values(), ids=SAME)
def test_a_message_is_known_again_however_a_client_keeps_it(other: Json) -> None:
    assert messages.ADAPTER.fingerprint_element(other) == messages.ADAPTER.fingerprint_element(SAID)


OTHER: dict[str, Json] = {
    "another role": {**SAID, "role": "user"},
    "other words": assistant(text("Look."), *SAID["content"][3:]),
    "another call": assistant(*SAID["content"][:3], use("shell", {"b": "2", "a": ["1"]}, "t2")),
    "other arguments": assistant(*SAID["content"][:3], use("shell", {"b": "3", "a": ["1", {"c": 1.0}]}, "t1")),
    "another picture": assistant(*SAID["content"], {"type": "image", "source": {"type": "url", "url": "u"}}),
}


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER)
def test_another_message_is_not_taken_for_it(other: Json) -> None:
    assert messages.ADAPTER.fingerprint_element(other) != messages.ADAPTER.fingerprint_element(SAID)


def test_plain_texts_and_blocks_are_the_same_message() -> None:
    mark = messages.ADAPTER.fingerprint_element
    assert mark(user("hi")) == mark(user([text("hi")]))
    assert mark(user([result("t1", "out")])) == mark(user([result("t1", [text("out")], is_error=False)]))
    assert mark(user([PICTURE])) == mark(user([{**PICTURE, **EPHEMERAL}]))
    assert mark({"role": "system", "content": "now"}) is None


# the laws


@st.composite
def block(draw: st.DrawFn) -> Json:
    """A block of a user's."""
    cited = draw(st.sampled_from([{}, {}, {}, CITED, EPHEMERAL]))
    said = draw(tool_output)
    made = [
        text(draw(short_line)),
        document(said, **cited),
        document([text(said), PICTURE], **cited),
        finding(said, **cited),
    ]
    return draw(st.sampled_from([*made, PICTURE]))


@st.composite
def answer(draw: st.DrawFn) -> object:
    """What a tool answers, in each of the shapes."""
    said = draw(tool_output)
    return draw(st.sampled_from([said, [text(said)], [text(said), PICTURE, document(said)]]))


@st.composite
def tool_turn(draw: st.DrawFn, number: int) -> list[Json]:
    """An assistant's calls and their answers, with the user's words behind them or without."""
    ids = [f"toolu_{number}_{at}" for at in range(draw(st.integers(1, 3)))]
    before = draw(st.lists(st.sampled_from([thinking("so be it"), text("I see.")]), max_size=2))
    calls = [use("shell", {"command": draw(shell_command)}, one) for one in ids]
    answers = [result(one, draw(answer())) for one in ids]
    return [assistant(*before, *calls), user([*answers, *draw(st.lists(block(), max_size=2))])]


@st.composite
def bodies(draw: st.DrawFn) -> Json:
    """A whole request body."""
    listed: list[Json] = []
    for number in range(draw(st.integers(1, 3))):
        listed.append(user(draw(st.one_of(tool_output, st.lists(block(), min_size=1, max_size=3)))))
        for again in range(draw(st.integers(0, 2))):
            listed += draw(tool_turn(10 * number + again))
        listed.append(assistant(*draw(st.lists(st.builds(text, tool_output), max_size=2)), text("So.")))
    listed.append(user(draw(st.one_of(short_line, st.lists(block(), min_size=1, max_size=3)))))
    system = draw(st.sampled_from([None, "be brief", [{**text("be brief"), **EPHEMERAL}]]))
    more: Json = {"x_unknown": [1, 2.50, "é"], **({"system": system} if system else {})}
    if draw(st.booleans()):
        more["tools"] = [SHELL]
    return {"model": draw(st.sampled_from(["claude-sonnet-4-5", "some-model"])), **more, **body(*listed), **more}


@pytest.fixture(scope="module")
def proxy_in(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("messages"), adapter=messages.ADAPTER) as made:
        yield made


@pytest.fixture(scope="module")
def offering(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("offering"), adapter=messages.ADAPTER, offer_tool=True) as made:
        yield made


def blanked(sent: Json) -> Json:
    """A body without the texts that may be shortened."""
    blank: Json = copy.deepcopy(sent)
    for turn in messages.build_turns(sent["messages"]):
        for slot in turn.slots:
            at: Any = blank
            for step in slot.path[:-1]:
                at = at[step]
            at[slot.path[-1]] = ""
    return blank


def tokens(sent: Json) -> int:
    counted = get_token_counter(sent["model"])
    overhead = messages.TOKENS_PER_REPLY + messages.TOKENS_PER_MESSAGE * len(sent["messages"])
    return overhead + sum(map(counted.count, messages.list_counted_texts(sent, sent["messages"])))


def slots(sent: Json) -> list[str]:
    return [slot.text for turn in messages.build_turns(sent["messages"]) for slot in turn.slots]


@whole_request_settings
@given(bodies(), styles, st.booleans())
def test_law_1_what_was_forwarded_stays_as_it_was(
    proxy_in: InProcessProxy, offering: InProcessProxy, sent: Json, style: JsonStyle, offers: bool
) -> None:
    used = offering if offers else proxy_in
    used.restart()
    before = b"["
    for upto in range(1, len(sent["messages"]) + 1):
        grown = {**sent, "messages": sent["messages"][:upto]}
        made = used.send(style(grown), SMALL)
        if made.context.prompt_diff is None or not made.context.prompt_diff.is_rewritten:
            assert made.message_bytes.startswith(before)
        before = made.message_bytes


@whole_request_settings
@given(bodies(), styles)
def test_laws_3_5_7_only_allowed_texts_differ_and_none_grows(
    proxy_in: InProcessProxy, sent: Json, style: JsonStyle
) -> None:
    plain = style(sent)
    made = proxy_in.send(plain, SMALL)
    after = orjson.loads(made.forwarded)
    assert blanked(after) == blanked(sent)
    assert list(after) == list(sent)
    counted = get_token_counter(sent["model"])
    for one, other in zip(slots(sent), slots(after), strict=True):
        assert one == other or counted.count(other) < counted.count(one)
    assert (made.forwarded is plain) == (made.forwarded == plain)
    adds_up(made, sent, after)


@whole_request_settings
@given(bodies(), styles)
def test_law_5_offering_adds_one_tool_at_the_end_and_nothing_else(
    offering: InProcessProxy, sent: Json, style: JsonStyle
) -> None:
    made = offering.send(style(sent), {"x-clara-min-tokens": "999999"})
    after = orjson.loads(made.forwarded)
    tool = messages.ADAPTER.build_expand_tool(sent)
    assert after == (sent if tool is None else {**sent, "tools": [*sent["tools"], tool]})
    adds_up(made, sent, after)


def adds_up(made: SentRequest, before: Json, after: Json) -> None:
    assert accounting.find_inconsistencies(made.row) == []
    assert made.row.tokens_received == tokens(before)
    assert made.row.tokens_sent == tokens(after)


def test_documents_are_shortened_for_what_their_message_asks(proxy_in: InProcessProxy) -> None:
    handed_in = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1\n" + LOG_TEXT.replace("INFO", "NOTE")
    plain = body(user([document(handed_in), text("Which disk was full?")]))
    made = orjson.loads(proxy_in.send(orjson.dumps(plain)).forwarded)
    shorter = made["messages"][0]["content"][0]["source"]["data"]
    assert len(shorter) < len(handed_in) / 2
    assert "disk full on /dev/sda1" in shorter
    assert made["messages"][0]["content"][1] == text("Which disk was full?")


# what is not as it should be


NAMES = ["type", "text", "content", "source", "data", "citations", "id", "tool_use_id", "input", "name", "enabled"]
KINDS = ["text", "tool_use", "tool_result", "document", "search_result", "thinking", "image", "new"]
odd: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "text", "user", LOG_TEXT[:2000]])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def odd_message(draw: st.DrawFn) -> Json:
    """A message of a known role with anything in it."""
    some = st.dictionaries(st.sampled_from(NAMES), odd, max_size=4)
    content = draw(odd)
    if draw(st.booleans()):
        content = [{**draw(some), "type": draw(st.sampled_from(KINDS))} for _ in range(draw(st.integers(0, 3)))]
    return {"role": draw(st.sampled_from(["user", "assistant", "system"])), "content": content}


@settings(whole_request_settings, max_examples=150)
@given(st.one_of(odd, st.lists(st.one_of(odd_message(), odd_message(), odd), max_size=4)), odd, odd)
def test_odd_shapes_break_nothing(offering: InProcessProxy, listed: Any, system: Any, tools: Any) -> None:
    sent: Json = {"model": "claude-x", "messages": listed, "system": system, "tools": tools}
    plain = orjson.dumps(sent)
    made = offering.send(plain, SMALL)
    assert accounting.find_inconsistencies(made.row) == []
    if messages.ADAPTER.read_conversation(sent) is None:
        assert made.forwarded is plain
        assert made.context.skip_counts == {"unknown-shape": 1}
        return
    assert "failed" not in made.context.skip_counts
    for message in sent["messages"]:
        mark = messages.ADAPTER.fingerprint_element(message)
        assert (mark is None) == (message["role"] == "system")


@pytest.mark.parametrize("tools", [[{"name": ["x"]}], [{"name": {}}], [1, None], ["clara_expand"]])
def test_odd_tools_break_nothing(offering: InProcessProxy, tools: list[Any]) -> None:
    made = offering.send(orjson.dumps(body(user("hi"), tools=tools)))
    assert orjson.loads(made.forwarded)["tools"][:-1] == tools


# errors, and who is asked


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_anthropics_shape(status: int, kind: str) -> None:
    error = ApiError(status, "no", code="x", param="y")
    told = {"type": "error", "error": {"type": kind, "message": "no", "param": "y", "code": "x"}}
    assert orjson.loads(messages.ADAPTER.encode_error(error)) == told
    assert messages.ADAPTER.encode_error_event(error) == b"event: error\ndata: " + orjson.dumps(told) + b"\n\n"


def test_a_header_that_makes_no_sense_is_refused_in_anthropics_shape(proxy: Proxy) -> None:
    with (
        anthropic.Anthropic(base_url=proxy.url, api_key=CLIENT_KEY, max_retries=0) as client,
        pytest.raises(anthropic.BadRequestError, match="x-clara-ratio") as caught,
    ):
        client.messages.create(**body(user("hi")), extra_headers={"x-clara-ratio": "none"})
    said: Any = caught.value.body
    assert said["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"])
def test_who_cannot_be_reached_is_told_in_anthropics_shape(tmp_path: Path, upstream: FaultyUpstream, path: str) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    with running.run_proxy(upstream.url, tmp_path, anthropic_base_url=nowhere) as broken:
        answer = broken.post(body(user("hi")), path)
        assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (
            502,
            "error",
            "api_error",
        )
        other = broken.post({}, "/v1/files", x_clara_ratio="none")
        assert set(other.json()) == {"error"}


@pytest.mark.parametrize(
    "header", [{"x-api-key": CLIENT_KEY}, {"authorization": f"Bearer {CLIENT_KEY}"}], ids=["key", "bearer"]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_either_way_to_say_who_asks_goes_through(
    proxy: Proxy, upstream: FaultyUpstream, header: dict[str, str], path: str
) -> None:
    version = {"anthropic-version": "2023-06-01", "anthropic-beta": "some-beta"}
    sent = body(user("why?"), assistant(use("shell", {}, "t1")), user([result("t1", LOG_TEXT)]), tools=[SHELL])
    httpx.post(f"{proxy.url}{path}?beta=true", json=sent, headers={**header, **version}, verify=False)
    assert upstream.last_request.request_line == f"POST {path}?beta=true HTTP/1.1".encode()
    given = {name.decode(): value.decode() for name, value in upstream.last_request.headers}
    assert {name: given.get(name) for name in ("x-api-key", "authorization")} == {
        "x-api-key": header.get("x-api-key"),
        "authorization": header.get("authorization"),
    }
    assert {name: given[name] for name in version} == version
    assert not [name for name in given if name.startswith("x-clara")]


def test_counting_counts_what_would_be_sent(proxy: Proxy, upstream: FaultyUpstream) -> None:
    sent = body(user("why?"), assistant(use("shell", {}, "t1")), user([result("t1", LOG_TEXT)]), tools=[SHELL])
    proxy.post(sent, "/v1/messages")
    told = upstream.last_request.body
    answer = proxy.post(sent, "/v1/messages/count_tokens")
    assert upstream.last_request.body == told
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000  # what it would be, for whoever asks
    row = proxy.wait_for_row(answer)
    assert (row.tokens_received, row.tokens_sent, row.saved_tokens, row.passages) == (0, 0, 0, "[]")
