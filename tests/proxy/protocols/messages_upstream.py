"""An upstream that speaks Anthropic's Messages API, plain and streamed, and says what a test lets it say."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, http_response

Json = dict[str, Any]
Say = Callable[[Json], list[Json]]  # from a request to the blocks that the model answers with
ID = re.compile(TOOL_NAME + r" ([0-9a-f]{12,24})")
USAGE: Json = {"input_tokens": 40, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 20, "output_tokens": 5}
ALL_INPUT = 63  # tokens of one round, as the ledger counts them
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_GROWN = {"text": ("text", "text_delta"), "thinking": ("thinking", "thinking_delta")}


def text(said: str) -> Json:
    """Return a block of text."""
    return {"type": "text", "text": said}


def thinking(said: str) -> Json:
    """Return a block of thoughts, signed."""
    return {"type": "thinking", "thinking": said, "signature": f"signature of {said}"}


def use(name: str, arguments: Json, its_id: str) -> Json:
    """Return a call of a tool."""
    return {"type": "tool_use", "id": its_id, "name": name, "input": arguments}


def result(its_id: str, content: object, **more: Any) -> Json:
    """Return a tool's answer."""
    return {"type": "tool_result", "tool_use_id": its_id, "content": content, **more}


def blocks(request: Json, kind: str) -> list[Json]:
    """List the blocks of one kind in a request."""
    contents = [one["content"] for one in request["messages"] if isinstance(one["content"], list)]
    return [block for content in contents for block in content if block["type"] == kind]


def asked_for(request: Json) -> list[str]:
    """Return the ids that the markers of a request name."""
    return ID.findall(orjson.dumps(request["messages"]).decode())


def expansions(request: Json) -> list[str]:
    """Return what our tool has answered in a request."""
    ours = {block["id"] for block in blocks(request, "tool_use") if block["name"] == TOOL_NAME}
    return [block["content"] for block in blocks(request, "tool_result") if block["tool_use_id"] in ours]


def message(said: list[Json], number: int = 1, stop: str | None = None) -> Json:
    """Return a whole reply."""
    calls = any(block["type"] == "tool_use" for block in said)
    named = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "claude-x"}
    ending = {"stop_reason": stop or ("tool_use" if calls else "end_turn"), "stop_sequence": None}
    return {**named, "content": said, **ending, "usage": USAGE}


def events(reply: Json) -> Iterator[Json]:
    """Stream a reply as Anthropic does."""
    told = {**USAGE, "output_tokens": 1}
    yield {"type": "message_start", "message": {**reply, "content": [], "stop_reason": None, "usage": told}}
    for index, block in enumerate(reply["content"]):
        yield from ({**one, "index": index} for one in _of_block(block))
    ending = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": USAGE["output_tokens"]}}
    yield {"type": "message_stop"}


def _of_block(block: Json) -> Iterator[Json]:
    kind = block["type"]
    opened, deltas = dict(block), list[Json]()
    if kind in _GROWN:
        name, delta = _GROWN[kind]
        said, opened[name] = block[name], ""
        deltas = [{"type": delta, name: said[at : at + 5]} for at in range(0, len(said), 5)]
    if kind == "thinking":
        opened["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    if kind in ("tool_use", "server_tool_use"):
        opened["input"], arguments = {}, orjson.dumps(block["input"]).decode()
        pieces = ["", *(arguments[at : at + 7] for at in range(0, len(arguments), 7))]
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    yield {"type": "content_block_start", "content_block": opened}
    yield from ({"type": "content_block_delta", "delta": delta} for delta in deltas)
    yield {"type": "content_block_stop"}


def written(event: Json) -> bytes:
    """Write an event as Anthropic does: named, and with blanks in it."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event).replace(b'":', b'": '))


def plays(upstream: FaultyUpstream, say: Say, stop: Callable[[Json], str | None] = lambda _: None) -> None:
    """Let the upstream answer with what the model says, streamed or not; every answer has an id of its own."""

    async def script(wire: Connection) -> None:
        request = wire.request.json
        reply = message(say(request), len(upstream.requests), stop(request))
        if not request.get("stream"):
            await wire.send(http_response(orjson.dumps(reply)))
            return
        told = [written(event) for event in events(reply)]
        await wire.send(EVENT_STREAM_HEAD, *map(http_chunk, [told[0], PING, *told[1:]]), b"0\r\n\r\n")

    upstream.script = script
