"""Runs the tool loop in process, with replies of an upstream as bytes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import orjson

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.expand.loop import ToolLoop
from clara_proxy.proxy.expand.tool import ExpandTool
from clara_proxy.proxy.http import relay, request_options
from clara_proxy.proxy.http.exchange import Exchange
from clara_proxy.proxy.http.request_context import RequestContext
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.api_errors import UpstreamError
from clara_proxy.proxy.protocols.expand_call import ExpandCall
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.tests.proxy.protocols.deviations import Body, Json

ADAPTERS: dict[str, ProtocolAdapter] = {
    "chat": chat.ADAPTER,
    "messages": messages.ADAPTER,
    "responses": responses.ADAPTER,
}
OPTIONS = request_options.build_default_options(Settings())
BODY = orjson.dumps({"messages": [], "input": []})


class FakeReply:
    """A reply of the upstream in pieces of a few bytes."""

    status = 200

    def __init__(self, body: Body, piece_length: int) -> None:
        self._body, self.content_type, self._piece_length = body, body.content_type, piece_length
        self.headers = [(b"content-type", self.content_type.encode())] if self.content_type else []

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncGenerator[bytes]:
        for start in range(0, len(self._body.data), self._piece_length):
            yield self._body.data[start : start + self._piece_length]
        if self._body.disconnects:
            raise UpstreamError(502, "the upstream disconnected")


class FakeHandler:
    """Answers every call with the same text."""

    is_exhausted = False
    fetched_tokens = 0

    def __init__(self) -> None:
        self.calls: list[ExpandCall] = []

    async def answer_calls(self, calls: Sequence[ExpandCall]) -> list[str]:
        self.calls += calls
        return ["the original"] * len(calls)


def run_loop(protocol: str, replies: list[FakeReply], *, stream: bool) -> tuple[bytes, list[Json], FakeHandler]:
    """Run a request through the tool loop. Return the client's bytes, the forwarded bodies, and the handler."""
    sent: list[bytes] = []
    bodies: list[Json] = []
    handler, adapter = FakeHandler(), ADAPTERS[protocol]

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def store_hidden(results: list[str]) -> None:
        orjson.dumps(expand_tool.reply_filter.build_hidden_record(results))

    @asynccontextmanager
    async def send_body(body: bytes) -> AsyncGenerator[FakeReply]:
        bodies.append(orjson.loads(body))
        yield replies[len(bodies) - 1]

    expand_tool = SimpleNamespace(
        adapter=adapter, reply_filter=adapter.create_reply_filter(), handler=handler, store_hidden=store_hidden
    )
    exchange = Exchange({"type": "http", "headers": []}, cast("Any", None), send)
    context = RequestContext("/v1/x", OPTIONS, model="gpt-4o", is_streamed=stream)
    loop = ToolLoop(exchange, context, cast("ExpandTool", expand_tool), strip_usage=False, default_window=128_000)

    async def run() -> None:
        async with relay.AnswerErrors(exchange, context, adapter):
            await loop.run(cast("Any", send_body), BODY, lambda: BODY)

    asyncio.run(run())
    return b"".join(sent), bodies, handler
