"""Invariant "prefix" with hidden rounds: what the upstream has received stays identical in every later request."""

import json
from collections.abc import Generator, Iterator
from itertools import count, groupby
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.expand.handler import MAX_ROUNDS, ExpandHandler
from clara_proxy.proxy.expand.tool import ExpandTool, append_elements
from clara_proxy.proxy.protocols import sse
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.responses import ADAPTER
from clara_proxy.tests import running
from clara_proxy.tests.conversations import shell_command
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.inprocess import JSON_STYLES, OWNER, InProcessProxy, JsonStyle, whole_request_settings
from clara_proxy.tests.proxy.invariants.cases import LOW_MINIMUM
from clara_proxy.tests.proxy.protocols import responses_upstream
from clara_proxy.tests.proxy.protocols.expand_apis import MessagesApi
from clara_proxy.tests.proxy.protocols.expand_data import ORIGINAL
from clara_proxy.tests.proxy.protocols.messages_upstream import (
    PING,
    RETURNS,
    Json,
    ReturnContent,
    call,
    find_marker_ids,
    result,
    run_model,
    text,
    thinking,
)
from clara_proxy.tests.running import LOG_TEXT, Proxy

Rounds = list[list[Json]]  # the output of a model, round by round
conversation_numbers = count(1)  # every example is a conversation of its own


# Responses API, without HTTP


class RespondingProxy(InProcessProxy):
    """A proxy without HTTP that gets the replies of a model from a plan."""

    def run_turn(self, body: bytes, plan: Rounds, *, stream: bool) -> tuple[list[bytes], list[Json]]:
        """Return the bodies that are sent for one request, and the output that the client sees.

        Rounds that the turn uses are removed from `plan`.
        """
        return self._loop.run_until_complete(self._run_turn(body, plan, stream=stream))

    async def _run_turn(self, plain: bytes, plan: Rounds, *, stream: bool) -> tuple[list[bytes], list[Json]]:
        body = orjson.loads(plain)
        handler = ExpandHandler(self.originals, OWNER, get_token_counter(body["model"]))
        definition = ADAPTER.build_expand_tool(body)
        assert definition is not None
        tool = ExpandTool(ADAPTER, body, definition, handler)
        context = self._create_context(plain, LOW_MINIMUM)
        sent = [await self._rewriter.rewrite_body(context, plain, body, OWNER, tool)]
        while True:
            reply = {"id": "resp", "status": "completed", "output": plan.pop(0)}
            output = filter_output(tool, reply, stream=stream)
            calls = tool.reply_filter.expand_calls
            results = await handler.answer_calls(calls) if calls else []
            if not tool.reply_filter.awaits_expansion:
                await tool.store_hidden(results)
                return sent, output
            items = tool.reply_filter.start_next_round(results)
            sent.append(append_elements(sent[-1], ADAPTER, items))


def filter_output(tool: ExpandTool, reply: Json, *, stream: bool) -> list[Json]:
    """Return the output that a client sees; in a stream, check that the events agree with the last one."""
    if not stream:
        return list(tool.reply_filter.filter_reply(reply)["output"])
    encoded = responses_upstream.encode_events(responses_upstream.iter_events(reply))
    filtered = b"".join(map(tool.reply_filter.filter_event, encoded))
    events = [orjson.loads(event.partition(b"data: ")[2]) for event in filtered.split(b"\n\n")[:-1]]
    if not events or events[-1]["type"] != "response.completed":
        return []  # another round follows
    output: list[Json] = events[-1]["response"]["output"]
    done: dict[int, Json] = {
        event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"
    }
    assert sorted(done) == list(range(len(output) - len(done), len(output)))
    assert all(output[index] == item for index, item in done.items())
    return output


@st.composite
def responses_turn(draw: st.DrawFn, number: int) -> Rounds:
    """The rounds of one turn: calls of the hidden tool, then an answer, or calls of the client's tools as well."""
    names = iter(f"{number}_{index}" for index in range(100))

    def draw_output(*, expand_count: int, client_count: int) -> list[Json]:
        arguments = {"id": "0123456789ab", "lines": "1-2"}
        calls = [responses_upstream.call(TOOL_NAME, arguments, f"expand_{next(names)}") for _ in range(expand_count)]
        calls += [
            responses_upstream.call("shell", {"command": draw(shell_command)}, f"call_{next(names)}")
            for _ in range(client_count)
        ]
        items = [
            responses_upstream.reasoning(next(names)),
            responses_upstream.web_search(next(names)),
            responses_upstream.message(next(names)),
        ]
        drawn_items = [item for item in items if draw(st.booleans())]
        return [*drawn_items, *draw(st.permutations(calls))] or [responses_upstream.message("Done.")]

    hidden = [draw_output(expand_count=draw(st.integers(1, 2)), client_count=0) for _ in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()):
        return [*hidden, draw_output(expand_count=draw(st.integers(0, 2)), client_count=1)]
    return [*hidden, [responses_upstream.message("So.")]]


@st.composite
def responses_sessions(draw: st.DrawFn) -> list[Rounds]:
    """The turns of a conversation."""
    return [draw(responses_turn(number)) for number in range(draw(st.integers(1, 4)))]


@pytest.fixture(scope="module")
def responding_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[RespondingProxy]:
    folder = tmp_path_factory.mktemp("responding")
    with RespondingProxy(folder, adapter=ADAPTER, offer_tool=True) as proxy:
        yield proxy


def input_bytes(body: bytes) -> bytes:
    """Return the bytes up to the closing bracket of the input, which the tools follow."""
    return body[: body.index(b'],"tools":')]


@whole_request_settings
@given(responses_sessions(), st.booleans())
def test_prefix_of_the_responses_api_includes_hidden_rounds(
    responding_proxy: RespondingProxy, session: list[Rounds], stream: bool
) -> None:
    items: list[Json] = [
        {"role": "user", "content": f"Why did {next(conversation_numbers)} fail?"},
        responses_upstream.call("logs", {}, "first"),
        responses_upstream.result("first", LOG_TEXT),
    ]
    prefix, model_items = b"", list[Json]()
    for plan in session:
        body: Json = {"model": "gpt-4o", "input": items, "tools": [responses_upstream.SHELL_TOOL]}
        rounds = [*plan]
        bodies, output = responding_proxy.run_turn(orjson.dumps(body), plan, stream=stream)
        assert plan == []  # every round took place
        for sent, round_output in zip(bodies, rounds, strict=True):
            assert input_bytes(sent).startswith(prefix)
            sent_items = orjson.loads(sent)["input"]
            assert [item for item in sent_items if item in model_items] == model_items  # all the model has written
            prefix, model_items = input_bytes(sent), [*model_items, *round_output]
        assert output == [item for round_output in rounds for item in round_output if item.get("name") != TOOL_NAME]
        call_ids = [item["call_id"] for item in output if item["type"] == "function_call"]
        items += [*output, *(responses_upstream.result(call_id, "ok") for call_id in call_ids)]
        items.append({"role": "user", "content": "and then?"})


# Messages API, over HTTP

SHORT_ORIGINAL = ORIGINAL[len(ORIGINAL) * 3 // 4 :]  # short enough that nothing is pruned


class PlannedModel:
    """A model that replies as planned: with the hidden tool, the client's tool, thinking and text."""

    def __init__(self, plans: list[list[str]]) -> None:
        self.outputs: Rounds = []
        self._plans = iter(plans)

    def __call__(self, request: Json) -> list[Json]:
        marker_ids = find_marker_ids(request)
        number = len(self.outputs)
        blocks: list[Json] = []
        for index, kind in enumerate(next(self._plans, ["text"])):
            call_id = f"toolu_{number}_{index}"
            if kind == "expand":
                marker_id = marker_ids[index % len(marker_ids)] if marker_ids else "0123456789ab"
                blocks.append(call(TOOL_NAME, {"id": marker_id}, call_id))
            elif kind == "call":
                blocks.append(call("logs", {"number": number}, call_id))
            else:
                blocks.append(thinking(f"hm {number}") if kind == "thinking" else text(f"said {number} {index}. "))
        self.outputs.append(blocks)
        return blocks


class PlannedClient:
    """A client that continues a conversation and sends content back in its own way."""

    def __init__(self, body: Json, return_content: ReturnContent, style: JsonStyle) -> None:
        self._return_content, self._style = return_content, style
        self.body = body
        self.body["messages"][0]["content"] += f" This is attempt {next(conversation_numbers)}."

    def encode(self, *, stream: bool) -> bytes:
        """Return the body of the next request."""
        return self._style({**self.body, "stream": stream})

    def add_turn(self, content: list[Json]) -> None:
        """Add a reply, the results of its calls, and in some turns a text."""
        call_ids = [block["id"] for block in content if block["type"] == "tool_use"]
        returned = content if call_ids else self._return_content(content)
        results = [result(call_id, f"{call_id}\n{SHORT_ORIGINAL}") for call_id in call_ids]
        blocks = [*results, text("Go on.")] if len(self.body["messages"]) % 4 else results
        self.body["messages"] += [
            {"role": "assistant", "content": returned},
            {"role": "user", "content": blocks or "And?"},
        ]


def join_events(stream: bytes) -> list[Json]:
    """Return the blocks of a streamed message, and check the order of its events."""
    content: list[Json] = []
    arguments = ""
    events = [sse.parse_data(event) for event in stream.replace(PING, b"").split(b"\n\n") if event]
    framing = [event["type"] for event in events if not event["type"].startswith("content_block")]
    assert framing == ["message_start", "message_delta", "message_stop"]
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(content)
            content.append(event["content_block"])
            arguments = ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(content) - 1
            for name in ("text", "thinking", "signature"):
                if name in event["delta"]:
                    content[-1][name] += event["delta"][name]
            arguments += event["delta"].get("partial_json", "")
        elif event["type"] == "content_block_stop" and arguments:
            content[-1]["input"] = orjson.loads(arguments)
    return content


def split_messages(body: bytes) -> list[str]:
    """Return the messages of a body as they are encoded."""
    encoded = body.decode()
    start = encoded.index("[", encoded.index('"messages":')) + 1
    messages: list[str] = []
    decoder = json.JSONDecoder()
    while True:
        start += len(encoded[start:]) - len(encoded[start:].lstrip(", \n"))
        if encoded[start] == "]":
            return messages
        _, end = decoder.raw_decode(encoded, start)
        messages.append(encoded[start:end])
        start = end


HIDDEN_OUTPUTS = [["expand"], ["thinking", "text", "expand"], ["thinking", "expand", "expand"]]
MIXED_OUTPUTS = [["call", "expand"], ["thinking", "text", "expand", "call"], ["expand", "call", "expand", "call"]]
VISIBLE_OUTPUTS = [["text"], ["thinking", "text"], ["call"], ["thinking", "text", "call", "call"]]


def is_below_round_limit(plan: list[list[str]]) -> bool:
    """Return True if no run of hidden rounds reaches the limit."""
    runs = groupby(plan, key=lambda output: output in HIDDEN_OUTPUTS)
    return all(len(list(run)) <= MAX_ROUNDS for is_hidden, run in runs if is_hidden)


plans = st.lists(st.sampled_from([*HIDDEN_OUTPUTS, *MIXED_OUTPUTS, *VISIBLE_OUTPUTS]), min_size=2, max_size=9).filter(
    is_below_round_limit
)
returns = st.sampled_from([RETURNS["unchanged"], RETURNS["unchanged"], *RETURNS.values()])


@pytest.fixture(scope="module")
def unpruned_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that never prunes stale outputs: a long plan has enough rounds to reach a pruning point."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("unpruned"), epoch_price=0) as proxy:
        yield proxy


LONG_PLAN = [["call", "expand"], *[["expand", "call", "expand", "call"]] * 5, *[["call", "expand"]] * 2, ["expand"]]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans, returns, st.sampled_from(JSON_STYLES), st.booleans())
@example(plan=LONG_PLAN, return_content=RETURNS["unchanged"], style=JSON_STYLES[0], stream=False)
def test_prefix_of_the_messages_api_includes_hidden_rounds(
    unpruned_proxy: Proxy,
    upstream: FaultyUpstream,
    plan: list[list[str]],
    return_content: ReturnContent,
    style: JsonStyle,
    stream: bool,
) -> None:
    upstream.reset()
    model = PlannedModel(plan)
    client = PlannedClient(build_messages_request(), return_content, style)
    run_model(upstream, model)
    prefix: list[str] = []
    while len(model.outputs) < len(plan):
        first = len(upstream.requests)
        reply = unpruned_proxy.post(client.encode(stream=stream), "/v1/messages")
        assert reply.status_code == 200
        assert TOOL_NAME.encode() not in reply.content
        content = join_events(reply.content) if stream else reply.json()["content"]
        outputs = model.outputs[first:]
        assert content == [block for output in outputs for block in output if block.get("name") != TOOL_NAME]
        for request in upstream.requests[first:]:
            messages = split_messages(request.body)
            assert messages[: len(prefix)] == prefix
            prefix = messages
            check_calls_are_answered(request.json["messages"])
        if first and return_content is RETURNS["unchanged"]:  # the previous reply is sent as the model wrote it
            messages = upstream.requests[first].json["messages"]
            assistant = messages[-2 if messages[-1]["role"] == "user" else -1]
            assert assistant["content"] == model.outputs[first - 1]
        client.add_turn(content)


def build_messages_request() -> Json:
    """Return a request with a tool output that can be compressed."""
    return {
        "model": "claude-x",
        "max_tokens": 999,
        "tools": MessagesApi.tools,
        "messages": [
            {"role": "user", "content": "why did it fail?"},
            {"role": "assistant", "content": [call("logs", {}, "toolu_logs")]},
            {"role": "user", "content": [result("toolu_logs", ORIGINAL)]},
        ],
    }


def check_calls_are_answered(messages: list[Json]) -> None:
    """Check the rule of the API: every call, and nothing else, has a result in the next user message."""
    pending: list[str] = []
    for message in messages:
        field: Any = message["content"]
        content: list[Json] = [text(field)] if isinstance(field, str) else field
        assert content
        if message["role"] == "assistant":
            pending += [block["id"] for block in content if block["type"] == "tool_use"]
        else:
            answered = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
            assert sorted(answered) == sorted(pending)
            pending = []
