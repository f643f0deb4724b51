"""Replies from public reports about gateways and servers, which benchmarks/README.md lists, through the tool loop."""

from typing import Any

import orjson
import pytest

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.proxy.protocols.deviations import Body, Json
from clara_proxy.tests.proxy.protocols.in_process_loop import FakeReply, run_loop
from clara_proxy.tests.proxy.protocols.test_deviant_upstream import ClientView

ARGUMENTS = '{"id":"0123456789ab"}'
PIECES = [ARGUMENTS[:5], ARGUMENTS[5:]]


def chat(*deltas: Json, finish: Any = "tool_calls", **fields: Any) -> list[Json]:
    """Return the chunks of a chat reply with these deltas."""
    chunks: list[Json] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **fields}]


def piece(index: int = 0, name: Any = None, arguments: Any = None, **fields: Any) -> Json:
    """Return the delta with a piece of a call. A field is left out if it is None."""
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    return {"tool_calls": [{"index": index, **fields, "function": function}]}


def message(*events: Json, stop: str = "tool_use", ends: bool = True) -> list[Json]:
    """Return the events of an Anthropic reply."""
    start: Json = {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1}}}
    end = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 1}}
    return [start, *events, end, *([{"type": "message_stop"}] if ends else [])]


def block(kind: str, index: int = 0, **fields: Any) -> Json:
    """Return an event of a block."""
    return {"type": f"content_block_{kind}", "index": index, **fields}


def use(**fields: Any) -> Json:
    """Return the start of a call of the hidden tool."""
    return block("start", content_block={"type": "tool_use", "id": "t1", "name": TOOL_NAME, "input": {}, **fields})


def input_delta(text: str, index: int = 0) -> Json:
    """Return a piece of the input of a call."""
    return block("delta", index, delta={"type": "input_json_delta", "partial_json": text})


def response(*events: Json, output: list[Json] | None = None) -> list[Json]:
    """Return the events of a Responses reply."""
    end = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": output or []}}
    return [{"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}}, *events, end]


def item(kind: str, call_id: str = "c1", arguments: str = "", **fields: Any) -> Json:
    """Return an event with the item of a hidden call."""
    call = {"type": "function_call", "id": "f1", "call_id": call_id, "name": TOOL_NAME, "arguments": arguments}
    return {"type": f"response.output_item.{kind}", "output_index": 0, "item": {**call, **fields}}


END = {
    "chat": chat({"role": "assistant", "content": "Disk full."}, finish="stop"),
    "messages": message(
        block("start", content_block={"type": "text", "text": ""}),
        block("delta", delta={"type": "text_delta", "text": "Disk full."}),
        block("stop"),
        stop="end_turn",
    ),
    "responses": response(
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Disk full."}]},
        }
    ),
}
DELTA = {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "f1", "delta": ARGUMENTS}
DONE = {"type": "response.function_call_arguments.done", "output_index": 0, "item_id": "f1", "arguments": ARGUMENTS}
FINAL_ITEM: Json = {"type": "function_call", "id": "f9", "call_id": "c9", "name": TOOL_NAME, "arguments": ARGUMENTS}
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 1}
REPORTED: dict[str, list[Json]] = {
    "litellm-12513 name null, type in capitals": chat(
        piece(0, TOOL_NAME, PIECES[0], id="c1", type="FUNCTION"), piece(0, "null", PIECES[1], id="", type="FUNCTION")
    ),
    "litellm-12513 name null before arguments": chat(piece(0, TOOL_NAME, "", id="c1"), piece(0, "null", ARGUMENTS)),
    "sglang-35542 null id and name": chat(
        piece(0, TOOL_NAME, "", id="c1", type="function"),
        {
            "tool_calls": [
                {"index": 0, "id": None, "type": "function", "function": {"name": None, "arguments": ARGUMENTS}}
            ]
        },
    ),
    "vllm-ascend-14501 null content beside calls": chat({"content": None, **piece(0, TOOL_NAME, ARGUMENTS, id="c1")}),
    "litellm-37792 arguments as an object": chat(piece(0, TOOL_NAME, {"id": "0123456789ab"}, id="c1"), finish="stop"),
    "litellm-21041 finish stop": chat(piece(0, TOOL_NAME, ARGUMENTS, id="c1"), finish="stop"),
    "litellm-31634 finish in each chunk": [
        {"choices": [{"index": 0, "delta": piece(0, TOOL_NAME, ARGUMENTS, id="c1"), "finish_reason": "tool_calls"}]},
        {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]},
    ],
    "opencode-43379 no finish": chat(piece(0, TOOL_NAME, ARGUMENTS, id="c1"), finish=None),
    "gateway-1072 usage inside x_groq": chat(
        piece(0, TOOL_NAME, ARGUMENTS, id="c1"), x_groq={"id": "req", "usage": USAGE}
    ),
    "gateway-1627 usage without choices": [*chat(piece(0, TOOL_NAME, ARGUMENTS, id="c1")), {"usage": USAGE}],
    "litellm-25561 no input": message(use(), block("stop")),
    "new-api-4203 start repeated": message(use(), input_delta(PIECES[0]), use(), input_delta(PIECES[1]), block("stop")),
    "cc-switch-7044 no index": message(
        use(), {**input_delta(ARGUMENTS), "index": None}, {"type": "content_block_stop"}
    ),
    "better-ccflare-344 no message_stop": message(use(), input_delta(ARGUMENTS), block("stop"), ends=False),
    "new-api-4362 empty output": response(item("added"), DELTA, item("done", arguments=ARGUMENTS)),
    "opencodex-4652 arguments at the end only": response(item("added"), DONE, item("done", arguments=ARGUMENTS)),
    "AIClient2API-471 deltas of another type": response(
        item("added"), {**DELTA, "type": "response.custom_tool_call_input.delta"}, item("done", arguments=ARGUMENTS)
    ),
    "vllm-38227 other ids in the completed event": response(
        item("added"), DELTA, item("done", arguments=ARGUMENTS), output=[FINAL_ITEM]
    ),
    "litellm-28899 constant sequence numbers": [
        {**event, "sequence_number": 1} for event in response(item("added"), DELTA, item("done", arguments=ARGUMENTS))
    ],
    "litellm-39288 empty delta": response(
        item("added"), {**DELTA, "delta": ""}, DELTA, item("done", arguments=ARGUMENTS)
    ),
}


def encode(events: list[Json]) -> Body:
    """Return a stream, with a comment as DeepInfra and OpenRouter send them."""
    data = b"".join(b": ping - 2025\n\ndata: " + orjson.dumps(event) + b"\n\n" for event in events)
    return Body(data + b"data: [DONE]\n\n", "text/event-stream")


def get_protocol(events: list[Json]) -> str:
    """Return the protocol of a reply."""
    kind = str(events[0].get("type", ""))
    return "messages" if kind.startswith("message") else "responses" if kind else "chat"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain client"])
@pytest.mark.parametrize("report", REPORTED)
def test_reported_reply_is_answered_and_hidden(report: str, stream: bool) -> None:
    events = REPORTED[report]
    protocol = get_protocol(events)
    replies = [FakeReply(encode(each), 60) for each in (events, END[protocol])]
    data, bodies, handler = run_loop(protocol, replies, stream=stream)
    view = ClientView(protocol, data)
    assert TOOL_NAME.encode() not in data
    assert (view.text, view.call_names, view.has_error) == ("Disk full.", [], False)
    arguments = [call.arguments for call in handler.calls]
    assert arguments == ["{}" if "no input" in report else ARGUMENTS]
    elements = bodies[-1].get("messages") or bodies[-1]["input"]
    assert orjson.dumps(elements).count(b"the original") == 1


@pytest.mark.parametrize("reasoning", ["", "Look there."])
def test_reasoning_returns_even_if_it_is_empty(reasoning: str) -> None:
    """DeepSeek rejects a call without the field (NVIDIA-NeMo/Switchyard 449, mnfst/llm-gateway 992)."""
    events = chat({"reasoning_content": reasoning, "content": None}, piece(0, TOOL_NAME, ARGUMENTS, id="c1"))
    _, bodies, _ = run_loop("chat", [FakeReply(encode(each), 60) for each in (events, END["chat"])], stream=True)
    assert bodies[-1]["messages"][0]["reasoning_content"] == reasoning
