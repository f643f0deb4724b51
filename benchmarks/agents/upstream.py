"""A provider on loopback whose model follows a script. It refuses calls without results, and counts prompt tokens."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from ...compression.tokens import get_token_counter
from ...proxy.protocols.json_types import Json, is_array, is_object
from .conversation import Conversation, Head, encode_reply, parse_conversation
from .model import Decide

TIMEOUT_S = 20.0
_API_PATHS = ("/chat/completions", "/responses", "/messages")


class Received(NamedTuple):
    """One request: its path, its body, and the tokens of its messages and tools."""

    path: str
    body: Json
    conversation: Conversation
    tokens: int


@dataclass
class ScriptedUpstream:
    """The requests that were received, and those that were refused, with the reason."""

    decide: Decide
    url: str = ""
    requests: list[Received] = field(default_factory=list[Received])
    refusals: list[str] = field(default_factory=list[str])
    other_paths: list[str] = field(default_factory=list[str])
    held: dict[str, Json] = field(default_factory=dict[str, Json])  # conversations by the ids of their last replies

    @property
    def tokens(self) -> int:
        """Return the prompt tokens of all requests."""
        return sum(request.tokens for request in self.requests)

    def count_breaks(self) -> int:
        """Return how many requests of the agent's loop do not continue the one before: the provider's cache is lost."""
        loops = [request.conversation.messages for request in self.requests if request.conversation.tools]
        return sum(after[: len(before)] != before for before, after in pairwise(loops))


async def _answer(upstream: ScriptedUpstream, request: web.Request) -> web.Response:
    path = request.path
    if path.endswith("/models"):
        models = [{"id": name, "object": "model", "owned_by": "script"} for name in ("gpt-4o", "gpt-5")]
        return web.json_response({"object": "list", "data": models})
    raw = await request.read()
    if path.endswith("/count_tokens"):
        return web.json_response({"input_tokens": _count_tokens(orjson.loads(raw))})
    if request.method != "POST" or not path.endswith(_API_PATHS):
        upstream.other_paths.append(f"{request.method} {path}")
        return web.json_response({"error": {"message": f"no such route: {path}", "type": "not_found"}}, status=404)
    body: Json = _restore_held(upstream, orjson.loads(raw))
    conversation = parse_conversation(path, body)
    tokens = _count_tokens(body)
    upstream.requests.append(Received(path, body, conversation, tokens))
    if unanswered := conversation.find_unanswered_calls():
        upstream.refusals.append(f"calls without a result: {', '.join(unanswered)}")
        error = {"message": upstream.refusals[-1], "type": "invalid_request_error", "code": None, "param": "messages"}
        return web.json_response({"type": "error", "error": error}, status=400)
    reply, number = upstream.decide(conversation), len(upstream.requests)
    whole, content = encode_reply(path, body, reply, Head(number, tokens))
    _hold(upstream, body, whole)
    media_type = "text/event-stream" if body.get("stream") else "application/json"
    return web.Response(body=content, headers={"content-type": media_type})


def _restore_held(upstream: ScriptedUpstream, body: Json) -> Json:
    """Return the body of a request with what the provider holds of its conversation: a thread, or a stored response."""
    thread: Json = body.get("thread") or {}
    held_id = thread.get("previous_message_id") or body.get("previous_response_id")
    if not held_id:
        return body
    held, key = upstream.held[held_id], "messages" if thread else "input"
    return {**held, **body, key: [*held[key], *body[key]]}


def _hold(upstream: ScriptedUpstream, body: Json, whole: Json) -> None:
    """Keep a conversation of which the client sends only what follows."""
    if body.get("thread"):
        message = {"role": "assistant", "content": whole["content"]}
        upstream.held[whole["id"]] = {**body, "messages": [*body["messages"], message]}
    elif body.get("store") and "input" in body:
        items = [{"role": "user", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]
        upstream.held[whole["id"]] = {**body, "input": [*items, *whole["output"]]}


def _count_tokens(body: Json) -> int:
    """Return the tokens of all strings of a prompt: its messages, its instructions and its tools."""
    counter = get_token_counter("gpt-4o")
    keys = ("system", "instructions", "messages", "input", "tools")
    return sum(counter.count(text) for key in keys for text in _iter_strings(body.get(key)))


def _iter_strings(value: Any) -> Generator[str]:
    if isinstance(value, str):
        yield value
    elif is_object(value) or is_array(value):
        for member in value.values() if is_object(value) else value:
            yield from _iter_strings(member)


@contextmanager
def run_upstream(decide: Decide) -> Generator[ScriptedUpstream]:
    """Run the upstream on a free loopback port, in a thread."""
    upstream = ScriptedUpstream(decide)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=2**26)

        async def handle(request: web.Request) -> web.Response:
            return await _answer(upstream, request)

        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(TIMEOUT_S)
    try:
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT_S)
        loop.close()
