"""The laws on the Responses API over generated conversations, with and without expansions in them.

Numbered as in docs/architecture.md: 1 prefix, 3 never worse, 5 structure, 7 honest.
"""

from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.expand.handler import ExpandHandler
from clara_proxy.proxy.expand.tool import ExpandTool, append_elements
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.json_types import is_array, is_object
from clara_proxy.proxy.protocols.responses import ADAPTER
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json, long_text, shell_command, short_line, tool_output
from clara_proxy.tests.proxy.inprocess import (
    JSON_STYLES,
    OWNER,
    InProcessProxy,
    JsonStyle,
    SentRequest,
    whole_request_settings,
)
from clara_proxy.tests.proxy.protocols import responder
from clara_proxy.tests.proxy.protocols.test_responses import FILE, PICTURE, TOOL, UNTOUCHED
from clara_proxy.tests.running import LOG_TEXT

SMALL = {"x-clara-min-tokens": "60"}
tasks = count()


@st.composite
def turn(draw: st.DrawFn, number: int) -> list[Json]:
    """What a model does between a user's text and its answer, and what comes of it."""
    items: list[Json] = [responder.reasoning(f"{number}")] if draw(st.booleans()) else []
    for at in range(draw(st.integers(1, 2))):
        its_id = f"call_{number}_{at}"
        its_output: Any = draw(tool_output)
        if draw(st.booleans()):
            its_output = [{"type": "input_text", "text": its_output}, PICTURE]
        items += [
            responder.call("shell", {"command": draw(shell_command)}, its_id),
            {"type": "function_call_output", "call_id": its_id, "output": its_output},
        ]
    if draw(st.booleans()):
        shell = {"type": "shell_call", "call_id": f"sh_{number}", "action": {"commands": [draw(shell_command)]}}
        told = [{"stdout": draw(tool_output), "stderr": draw(short_line), "outcome": {"type": "exit", "exit_code": 1}}]
        items += [shell, {"type": "shell_call_output", "call_id": f"sh_{number}", "output": told}]
    return items


@st.composite
def bodies(draw: st.DrawFn) -> Json:
    """A whole request body."""
    items: list[Json] = [{"role": "developer", "content": draw(long_text)}]
    for number in range(draw(st.integers(1, 3))):
        asked = f"{draw(short_line)}?\n\n<document>\n{draw(long_text)}\n</document>"
        items += [{"role": "user", "content": [{"type": "input_text", "text": asked}, PICTURE, FILE]}]
        items += [*draw(turn(number)), *draw(st.lists(st.sampled_from(UNTOUCHED), max_size=2))]
        items += [responder.message(draw(tool_output))]
    items += [{"type": "message", "role": "user", "content": draw(short_line), "x_unknown": {"kept": [1, None]}}]
    body: Json = {"model": draw(st.sampled_from(["gpt-4o", "some-model"])), "input": items, "instructions": "Be brief."}
    return body | {"tools": [TOOL, {"type": "web_search"}], "store": False, "x_unknown_field": {"a": [1, 2.50, "é"]}}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("responses"), adapter=ADAPTER) as made:
        yield made


def prefixes(body: Json) -> Iterator[Json]:
    for upto in range(1, len(body["input"]) + 1):
        yield {**body, "input": body["input"][:upto]}


def tokens(body: Json) -> int:
    found = ADAPTER.read_conversation(body)
    assert found is not None
    return found.overhead_tokens + sum(map(get_token_counter(body["model"]).count, found.texts()))


def honest(sent: SentRequest, before: Json) -> None:
    assert accounting.find_inconsistencies(sent.row) == []
    assert sent.row.tokens_received == tokens(before)
    assert sent.row.tokens_sent == tokens(orjson.loads(sent.forwarded))


@whole_request_settings
@given(bodies(), st.sampled_from(JSON_STYLES))
def test_law_1_what_was_forwarded_stays_as_it_was(proxy: InProcessProxy, body: Json, style: JsonStyle) -> None:
    proxy.restart()
    before = b"["
    for grown in prefixes(body):
        sent = proxy.send(style(grown), SMALL)
        honest(sent, grown)
        head = orjson.dumps(orjson.loads(sent.forwarded)["input"])[:-1]
        assert head.startswith(before)
        before = head


def bare(value: Any) -> Any:
    """A value without the texts that may be shortened."""
    if is_array(value):
        return [bare(one) for one in value]
    if is_object(value):
        texts = ("content", "output", "text", "stdout", "stderr")
        return {name: "" if name in texts and isinstance(one, str) else bare(one) for name, one in value.items()}
    return value


@whole_request_settings
@given(bodies(), st.sampled_from(JSON_STYLES))
def test_laws_3_and_5_never_longer_and_nothing_else_touched(
    proxy: InProcessProxy, body: Json, style: JsonStyle
) -> None:
    sent = proxy.send(style(body), SMALL)
    after = orjson.loads(sent.forwarded)
    assert sent.row.tokens_sent <= sent.row.tokens_received
    assert bare(after) == bare(body)
    assert orjson.dumps(bare(after)) == orjson.dumps(bare(body))  # the order of fields, too
    for one, other in zip(body["input"], after["input"], strict=True):
        assert one == other or tokens({**body, "input": [other]}) < tokens({**body, "input": [one]})
        if one.get("role") == "developer" or not str(one.get("type", "message")).endswith(("message", "output")):
            assert one == other
    if not sent.row.saved_tokens:
        assert sent.forwarded == style(body)


@whole_request_settings
@given(long_text, short_line)
def test_law_5_a_text_as_input_stays_a_text(proxy: InProcessProxy, material: str, ask: str) -> None:
    body: Json = {"model": "gpt-4o", "input": f"{ask}?\n\n<document>\n{material}\n</document>"}
    sent = proxy.send(orjson.dumps(body), SMALL)
    after = orjson.loads(sent.forwarded)
    honest(sent, body)
    assert isinstance(after["input"], str)
    assert after["input"].startswith(f"{ask}?\n\n<document>")


class Talking(InProcessProxy):
    """A proxy without HTTP that talks to a model which says what is planned: for every round the output's items."""

    def talk(self, plain: bytes, plan: list[list[Json]], *, stream: bool) -> tuple[list[bytes], list[Json]]:
        """Return what was sent up, round by round, and what the client sees; what was planned and not said is left."""
        return self._loop.run_until_complete(self._talk(plain, plan, stream=stream))

    async def _talk(self, plain: bytes, plan: list[list[Json]], *, stream: bool) -> tuple[list[bytes], list[Json]]:
        body = orjson.loads(plain)
        shelf = ExpandHandler(self.originals, OWNER, get_token_counter(body["model"]))
        tool = ADAPTER.build_expand_tool(body)
        assert tool is not None
        offer = ExpandTool(ADAPTER, body, tool, shelf)
        sent = [await self._rewriter.rewrite_body(self._create_context(plain, SMALL), plain, body, OWNER, offer)]
        while True:
            seen = _heard(offer, {"id": "resp", "status": "completed", "output": plan.pop(0)}, stream=stream)
            calls = offer.reply_filter.expand_calls
            results = await shelf.answer_calls(calls) if calls else []
            if not offer.reply_filter.awaits_expansion:
                await offer.store_hidden(results)
                return sent, seen
            elements = offer.reply_filter.start_next_round(results)
            sent.append(append_elements(sent[-1], ADAPTER, elements))


def _heard(offer: ExpandTool, reply: Json, *, stream: bool) -> list[Json]:
    """Return the output as a client sees it; of one that is streamed, both ways of seeing it must agree."""
    if not stream:
        return list(offer.reply_filter.filter_reply(reply)["output"])
    passed = b"".join(map(offer.reply_filter.filter_event, responder.written(responder.events(reply))))
    told = [orjson.loads(each.partition(b"data: ")[2]) for each in passed.split(b"\n\n")[:-1]]
    if not told or told[-1]["type"] != "response.completed":
        return []  # it goes on
    shown: list[Json] = told[-1]["response"]["output"]
    done: dict[int, Json] = {
        one["output_index"]: one["item"] for one in told if one["type"] == "response.output_item.done"
    }
    assert sorted(done) == list(range(len(shown) - len(done), len(shown)))
    assert all(shown[index] == item for index, item in done.items())
    return shown


@st.composite
def rounds(draw: st.DrawFn, number: int) -> list[list[Json]]:
    """What a model says in one turn: rounds of calls of ours, then perhaps calls of both, or an answer."""
    names = iter(f"{number}_{at}" for at in range(100))

    def said(*, ours: int, theirs: int) -> list[Json]:
        calls = [
            responder.call(TOOL_NAME, {"id": "0123456789ab", "lines": "1-2"}, f"ours_{next(names)}")
            for _ in range(ours)
        ]
        calls += [
            responder.call("shell", {"command": draw(shell_command)}, f"call_{next(names)}") for _ in range(theirs)
        ]
        words = [responder.reasoning(next(names)), responder.searched(next(names)), responder.message(next(names))]
        spoken = [one for one in words if draw(st.booleans())]
        return [*spoken, *draw(st.permutations(calls))] or [responder.message("Done.")]

    asking = [said(ours=draw(st.integers(1, 2)), theirs=0) for _ in range(draw(st.integers(0, 3)))]
    return [
        *asking,
        said(ours=draw(st.integers(0, 2)), theirs=1) if draw(st.booleans()) else [responder.message("So.")],
    ]


@st.composite
def sessions(draw: st.DrawFn) -> list[list[list[Json]]]:
    return [draw(rounds(number)) for number in range(draw(st.integers(1, 4)))]


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Generator[Talking]:
    with Talking(tmp_path_factory.mktemp("talking"), adapter=ADAPTER, offer_tool=True) as made:
        yield made


def input_bytes(body: bytes) -> bytes:
    """Return the bytes of the input without its last bracket; the tools stand right behind it."""
    return body[: body.index(b'],"tools":')]


@whole_request_settings
@given(sessions(), st.booleans())
def test_law_1_holds_with_expansions(talking: Talking, session: list[list[list[Json]]], stream: bool) -> None:
    items: list[Json] = [
        {"role": "user", "content": f"Why did {next(tasks)} fail?"},  # no example finds what another left
        responder.call("logs", {}, "first"),
        {"type": "function_call_output", "call_id": "first", "output": LOG_TEXT},
    ]
    before, ahead = b"", list[Json]()
    for plan in session:
        body: Json = {"model": "gpt-4o", "input": items, "tools": [TOOL]}
        said = [*plan]
        sent, seen = talking.talk(orjson.dumps(body), plan, stream=stream)
        assert plan == []  # no round was left out
        for one, outcome in zip(sent, said, strict=True):
            now = input_bytes(one)
            assert now.startswith(before)
            assert [item for item in orjson.loads(one)["input"] if item in ahead] == ahead  # what the model itself said
            before, ahead = now, [*ahead, *outcome]
        assert seen == [item for outcome in said for item in outcome if item.get("name") != TOOL_NAME]
        calls = [item["call_id"] for item in seen if item["type"] == "function_call"]
        items += [*seen, *({"type": "function_call_output", "call_id": one, "output": "ok"} for one in calls)]
        items.append({"role": "user", "content": "and then?"})
