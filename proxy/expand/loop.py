"""Brings the answer back in as many rounds as the model needs: it asks for what was left out, and gets it, unseen.

To the client all rounds are one reply. What comes first decides its status and headers; nothing is held back but what
only the proxy asked for. There is an end to it: the last round is the request as the client sent it.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import orjson

from ...compression.tokens import get_token_counter
from ..http import headers, relay, shadow
from ..http.exchange import Exchange
from ..http.relay import Reply
from ..http.request_context import RequestContext
from ..protocols import expand_call, json_types, sse, token_counts
from ..protocols.api_errors import ApiError, UpstreamError, has_error
from ..protocols.json_types import Json
from ..stores.originals_store import OriginalsError
from .tool import ExpandTool

SendBody = Callable[[bytes], AbstractAsyncContextManager[Reply]]
log = logging.getLogger(__name__)


class ToolLoop:
    """One client's request, asked once or several times. `strip_usage` takes out of a stream what only we asked for."""

    def __init__(
        self, exchange: Exchange, context: RequestContext, expand_tool: ExpandTool, *, strip_usage: bool
    ) -> None:
        self._exchange, self._context, self._expand_tool = exchange, context, expand_tool
        self._reply_filter, self._handler = expand_tool.reply_filter, expand_tool.handler
        self._strip_usage = strip_usage
        self._tap = sse.UsageTap(strip=strip_usage)
        self._sent_tokens = context.received_tokens - context.saved_tokens
        self._has_stored_hidden = False

    async def run(self, send_body: SendBody, body: bytes, original_body: bytes) -> None:
        """Ask until the model waits for nobody but the client, and relay what it says.

        A model that does not stop asking for what was left out gets it all at last: the `whole` request, as it came.
        """
        while True:
            async with send_body(body) as reply:
                if not await self._relay_round(reply):
                    return
            results = await self._handler.answer_calls(self._reply_filter.expand_calls)
            self._context.round_usages.append(self._reply_filter.usage)
            further = self._reply_filter.start_next_round(results)
            body = (
                self._use_original_body(original_body)
                if self._handler.is_exhausted
                else self._append_elements(body, further)
            )

    async def _relay_round(self, reply: Reply) -> bool:
        """Bring one reply to the client; true when the model waits for us."""
        self._context.status = reply.status
        self._context.outcome = "ok" if reply.status < 400 else "upstream_error"
        if reply.status < 400 and reply.content_type == "text/event-stream":
            return await self._relay_stream(reply)
        if reply.status < 400 and reply.content_type == "application/json" and not self._exchange.has_started:
            return await self._relay_json(reply)
        if self._exchange.has_started:
            self._context.outcome = "upstream_error"
            await self._exchange.end_response(self._encode_upstream_error(await reply.read(), reply.status))
        else:
            await relay.relay_reply(
                self._exchange, self._context, reply, self._expand_tool.adapter, strip_usage=self._strip_usage
            )
            self._context.usage = (
                self._reply_filter.usage or self._context.usage
            )  # what earlier rounds have used is billed
        return False

    async def _relay_stream(self, reply: Reply) -> bool:
        if not self._exchange.has_started:
            self._context.is_streamed = True
            await self._exchange.start_response(reply.status, self._build_headers(reply))
        events = sse.EventSplitter()
        try:
            async for chunk in reply.chunks():
                await self._forward_events(events.feed(chunk))
            await self._forward_events(events.flush())
        except ApiError as error:
            self._context.outcome = "upstream_error"
            await self._exchange.end_response(
                self._tap.discard_partial_event() + self._expand_tool.adapter.encode_error_event(error)
            )
            return False
        finally:
            self._context.usage = self._reply_filter.usage or self._tap.usage
        if self._needs_next_round:
            return True
        if self._reply_filter.awaits_expansion:
            if self._is_reply_empty:
                self._context.outcome = "upstream_error"
                await self._exchange.end_response(
                    self._tap.discard_partial_event() + self._expand_tool.adapter.encode_error_event(_no_answer_error())
                )
                return False
            await self._forward_events([self._reply_filter.finish_stream()], is_filtered=True)
        await self._store_hidden()
        last = self._tap.flush()
        self._context.outcome = "upstream_error" if self._tap.has_failed else self._context.outcome
        await self._exchange.end_response(last)
        return False

    async def _relay_json(self, reply: Reply) -> bool:
        payload = await reply.read()
        answer = json_types.parse_object(payload)
        shown = answer if answer is None else self._reply_filter.filter_reply(answer)
        self._context.usage = self._reply_filter.usage
        if self._needs_next_round:
            return True
        if self._reply_filter.awaits_expansion and self._is_reply_empty:
            raise _no_answer_error()
        relay.record_reply_error(self._context, answer)
        await self._store_hidden()
        own = payload if shown is answer else orjson.dumps(shown)
        await self._exchange.send_response(reply.status, self._build_headers(reply), own)
        return False

    @property
    def _needs_next_round(self) -> bool:
        return self._reply_filter.awaits_expansion and not self._handler.is_exhausted

    @property
    def _is_reply_empty(self) -> bool:
        """Say whether the client would get neither a word nor a call of its tools."""
        text, calls = shadow.extract_content(self._reply_filter)
        return not text.strip() and not calls

    async def _forward_events(self, events: Sequence[bytes], *, is_filtered: bool = False) -> None:
        """Hand events on, those that the listener has not heard yet as it lets them."""
        passed = b"".join(
            self._tap.feed(event if is_filtered else self._reply_filter.filter_event(event)) for event in events
        )
        if passed:
            if self._reply_filter.is_complete and not self._needs_next_round:
                await self._store_hidden()
            await self._exchange.write_chunk(passed)

    async def _store_hidden(self) -> None:
        """Keep what the client does not see, before it knows the end and can send the next request."""
        if self._has_stored_hidden:
            return
        self._has_stored_hidden = True
        calls = self._reply_filter.expand_calls
        counted = get_token_counter(self._context.pricing_model)
        self._context.hidden_call_tokens = sum(counted.count(expand_call.TOOL_NAME + call.arguments) for call in calls)
        try:
            await self._expand_tool.store_hidden(await self._handler.answer_calls(calls) if calls else [])
        except OriginalsError as error:  # it costs the next turn a part of the provider's cache, and no answer
            log.warning("what was expanded is not remembered: %s", error)
        self._context.fetched_tokens = self._handler.fetched_tokens

    def _encode_upstream_error(self, body: bytes, status: int) -> bytes:
        """Write an upstream's error as the last event, on one line; one that is no JSON is told by its status."""
        told, wire = json_types.parse_object(body), self._expand_tool.adapter
        if told is None or not (status >= 400 or has_error(told)):
            return wire.encode_error_event(UpstreamError(502, f"the upstream answered with status {status}"))
        return sse.encode_event(orjson.dumps(told), name=wire.error_event_name)

    def _append_elements(self, body: bytes, elements: Sequence[Json]) -> bytes:
        written = [orjson.dumps(element) for element in elements]
        self._sent_tokens += token_counts.count_elements(
            self._expand_tool.adapter, elements, get_token_counter(self._context.pricing_model)
        )
        self._context.add_proxy_tokens(self._sent_tokens)
        self._context.fetched_tokens = self._handler.fetched_tokens
        return self._expand_tool.adapter.append_elements(body, written)

    def _use_original_body(self, original_body: bytes) -> bytes:
        self._sent_tokens = self._context.received_tokens
        self._context.add_proxy_tokens(self._sent_tokens)
        self._context.fetched_tokens = self._handler.fetched_tokens
        self._context.skip_counts["too-many-expansions"] = 1
        return original_body

    def _build_headers(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        return (
            headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
            + self._context.build_response_headers()
        )


def _no_answer_error() -> UpstreamError:
    """Return what a model's reply amounts to that goes on calling a tool which is not there; asked again, it would."""
    message = "the model gave no answer: to the request as it came, too, it called only a tool that it does not have"
    return UpstreamError(502, message, code="no_answer", headers={"x-should-retry": "false"})
