"""A scripted upstream: OpenAI's chat completions, plain and streamed, with answers from a script.

It records the requests it receives. Its usage is computed from the received text, with a prompt cache by OpenAI's
rules: multiples of 128 tokens of an unchanged prefix, from 1,024 on.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from ....compression.tokens import get_token_counter
from ...http.exchange import Exchange, Receive, Scope, Send
from ...protocols import chat
from ...protocols.json_types import Json, is_object

ReplyScript = Callable[[list[Json]], Json]
MIN_CACHED_TOKENS, CACHE_STEP_TOKENS = 1024, 128
CHUNK_CHARS = 24  # characters per chunk of a streamed answer


class ScriptedUpstream:
    """An ASGI application; `bodies` and `headers` are those of the requests received, in order."""

    def __init__(self, script: ReplyScript) -> None:
        self._script = script
        self._earlier_prompts: list[list[str]] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        body = await exchange.read_body(2**30)
        if not str(scope["path"]).endswith("/chat/completions"):
            models = {"object": "list", "data": [{"id": "gpt-4o", "object": "model", "created": 0, "owned_by": "demo"}]}
            await exchange.send_response(200, [(b"content-type", b"application/json")], orjson.dumps(models))
            return
        self.bodies.append(body)
        self.headers.append(dict(exchange.headers))
        request: Json = orjson.loads(body)
        message = self._script(request["messages"])
        await _send_answer(exchange, request, message, self._compute_usage(request, message))

    def _compute_usage(self, request: Json, message: Json) -> Json:
        counter = get_token_counter(str(request["model"]))
        tools: list[Json] = request.get("tools") or []
        pieces = [orjson.dumps(tool).decode() for tool in tools]
        pieces += [orjson.dumps(item).decode() for item in request["messages"]]
        shared = max((_count_shared(pieces, prompt) for prompt in self._earlier_prompts), default=0)
        self._earlier_prompts.append(pieces)
        cached = sum(map(counter.count, pieces[:shared])) // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS
        prompt = chat.count_overhead(request["messages"]) + sum(
            map(counter.count, chat.list_counted_texts(request, request["messages"]))
        )
        output = sum(map(counter.count, chat.list_counted_texts({}, [message])))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": min(prompt, cached) if cached >= MIN_CACHED_TOKENS else 0},
        }


def _count_shared(pieces: list[str], earlier: list[str]) -> int:
    pairs = zip(pieces, earlier, strict=False)
    limit = min(len(pieces), len(earlier))
    return next((index for index, (piece, other) in enumerate(pairs) if piece != other), limit)


async def _send_answer(exchange: Exchange, request: Json, message: Json, usage: Json) -> None:
    common = {"id": "chatcmpl-demo", "created": 0, "model": request["model"]}
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    if request.get("stream") is not True:
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        completion = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
        await exchange.send_response(200, [(b"content-type", b"application/json")], orjson.dumps(completion))
        return
    options = request.get("stream_options")
    wants_usage = is_object(options) and options.get("include_usage") is True
    await exchange.start_response(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
    async for delta in _split_deltas(message):
        await exchange.write_chunk(
            _encode_event(common, [{"index": 0, "delta": delta, "finish_reason": None}], null_usage=wants_usage)
        )
    await exchange.write_chunk(
        _encode_event(common, [{"index": 0, "delta": {}, "finish_reason": finish}], null_usage=wants_usage)
    )
    if wants_usage:
        await exchange.write_chunk(_encode_event({**common, "usage": usage}, []))
    await exchange.end_response(b"data: [DONE]\n\n")


def _encode_event(common: Json, choices: list[Json], *, null_usage: bool = False) -> bytes:
    chunk = {**common, "object": "chat.completion.chunk", "choices": choices}
    return b"data: " + orjson.dumps(chunk | ({"usage": None} if null_usage else {})) + b"\n\n"


async def _split_deltas(message: Json) -> AsyncIterator[Json]:
    yield {"role": "assistant", "content": ""}
    content = str(message.get("content") or "")
    for start in range(0, len(content), CHUNK_CHARS):
        yield {"content": content[start : start + CHUNK_CHARS]}
    calls: list[Any] = message.get("tool_calls") or []
    for index, call in enumerate(calls):
        function = call["function"]
        opening = {"name": function["name"], "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": opening}]}
        for start in range(0, len(function["arguments"]), CHUNK_CHARS):
            piece = {"arguments": function["arguments"][start : start + CHUNK_CHARS]}
            yield {"tool_calls": [{"index": index, "function": piece}]}
