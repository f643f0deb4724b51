"""The rounds of one request: how a call of the hidden tool `clara_expand` is answered.

1. `ToolLoop.run` sends the request upstream and relays the reply through the protocol's reply filter, which removes the
   calls of the tool.
2. If the model waits for such calls alone, `ExpandHandler.answer_calls` reads the stored originals.
3. The calls and their results are appended to the conversation, and the request is sent again.
4. When the reply is complete, the hidden calls are stored for re-insertion into the client's next request.

To the client all rounds are one reply. The first one decides its status and headers. After `MAX_ROUNDS` the last
request is the client's own, uncompressed and without the tool. So it is if a further round exceeds the context.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from ...compression.tokens import get_token_counter
from ...config import prices
from ..http import headers, relay, shadow
from ..http.exchange import Exchange, RawHeaders
from ..http.relay import OpenBody, Reply
from ..http.request_context import RequestContext
from ..protocols import (
    expand_call,
    json_codec,
    json_types,
    offload,
    reply_events,
    sse,
    token_counts,
    usage_fields,
)
from ..protocols.api_errors import ApiError, UpstreamError, describe_error, has_error
from ..protocols.json_types import Json
from ..stores.originals_store import OriginalsError
from ..stores.reply_bill import ReplyFacts
from .tool import ExpandTool, append_elements

SendBody = Callable[[bytes], AbstractAsyncContextManager[Reply]]
EVENTS_AT_ONCE = 256  # events that are filtered before other requests have their turn
log = logging.getLogger(__name__)
_TOO_LONG = re.compile(
    rb"context.{0,3}(?:length|window|size|limit)|maximum context|prompt is too long|input is too long"
    rb"|too many.{0,12}tokens|token limit|exceeds? the (?:maximum|limit)|request_too_large|reduce the length"
    rb"|input length",
    re.IGNORECASE,
)


class ToolLoop:
    """Sends one client's request in one or several rounds.

    With `strip_usage` the usage is removed from a stream, because only the proxy asked for it. `default_window` is the
    context window of a model without a known one, in tokens.
    """

    def __init__(
        self,
        exchange: Exchange,
        context: RequestContext,
        expand_tool: ExpandTool,
        *,
        strip_usage: bool,
        default_window: int,
    ) -> None:
        self._exchange, self._context, self._expand_tool = exchange, context, expand_tool
        self._adapter, self._reply_filter = expand_tool.adapter, expand_tool.reply_filter
        self._handler = expand_tool.handler
        self._vocabulary = get_token_counter(context.pricing_model)
        self._strip_usage = strip_usage
        self._tap = sse.UsageTap(strip=strip_usage)
        self._sent_tokens = context.received_tokens - context.saved_tokens
        self._original_tokens = context.received_tokens + context.store_tokens
        # The client's own request may have any size, since it decides how much its model can read.
        price = prices.find_price(context.pricing_model)
        window = default_window if price is None or price.context_window is None else price.context_window
        self._handler.free_tokens = max(0, max(window, context.received_tokens) - self._sent_tokens)
        self._wants_stream = context.is_streamed
        self._has_started_stream = False
        self._is_too_long = False  # the upstream refused a further round for its length
        self._has_stored_hidden = False
        self._facts = ReplyFacts()

    async def run(self, send_body: SendBody, body: bytes, build_original_body: Callable[[], bytes]) -> None:
        """Send the request until the model waits for the client alone, and relay its reply.

        A model that keeps calling the tool gets the uncompressed request, by `build_original_body`, in the last round.
        So does one that the originals do not fit into any more.
        """
        while True:
            try:
                async with send_body(body) as reply:
                    if not await self._relay_round(reply):
                        return
            except UpstreamError as error:
                if not self._is_refused_for_length(error.status, error.message.encode()):
                    raise
                self._is_too_long = True
            if self._is_too_long:
                self._has_stored_hidden = True  # the next turn begins without the hidden rounds, too
                body, self._sent_tokens = build_original_body(), self._original_tokens
            else:
                body = await self._start_next_round(body, build_original_body)
            if self._is_last_round:
                self._context.skip_counts["too-many-expansions"] = 1
            self._context.add_proxy_tokens(self._sent_tokens)
            self._context.fetched_tokens = self._handler.fetched_tokens

    async def _start_next_round(self, body: bytes, build_original_body: Callable[[], bytes]) -> bytes:
        """Answer the calls of a round and return the body of the next one."""
        results = await self._handler.answer_calls(self._reply_filter.expand_calls)
        self._context.round_usages.append(self._reply_filter.usage)
        elements = self._reply_filter.start_next_round(results)
        if self._handler.is_exhausted:
            self._sent_tokens = self._original_tokens
            return build_original_body()
        self._sent_tokens += token_counts.count_elements(self._adapter, elements, self._vocabulary)
        return await json_codec.rewrite(append_elements, body, self._adapter, elements)

    async def _relay_round(self, reply: Reply) -> bool:
        """Relay one reply to the client. Return True if another round follows."""
        self._context.status = reply.status
        self._context.outcome = "ok" if reply.status < 400 else "upstream_error"
        if reply.status >= 400:
            return await self._relay_error(reply)
        body = await relay.open_body(self._exchange, reply, self._build_headers(reply))
        body = body.strip_byte_order_mark()
        must_join = self._reply_filter.has_hidden_rounds and not self._wants_stream and not self._has_started_stream
        if body.is_stream and must_join:
            return await self._relay_json(reply, json_codec.dumps(await self._join_stream(body)))
        if body.is_stream:
            return await self._relay_stream(reply, body)
        return await self._relay_json(reply, await body.read())

    async def _relay_error(self, reply: Reply) -> bool:
        payload = await reply.read()
        if await offload.run_for(len(payload), self._is_refused_for_length, reply.status, payload):
            self._is_too_long = True
            return True
        if self._has_started_stream:
            event = await offload.run_for(len(payload), self._encode_upstream_error, payload, reply.status)
            await self._exchange.end_response(event)
        else:
            await relay.send_whole_body(self._exchange, reply.status, self._build_headers(reply), payload)
            error = await offload.run_for(len(payload), json_types.parse_object, payload)
            relay.record_reply_error(self._context, error)
        self._context.usage = self._reply_filter.usage  # earlier rounds are billed
        return False

    async def _relay_stream(self, reply: Reply, body: OpenBody) -> bool:
        await self._start_stream(reply)
        events = sse.EventSplitter()
        try:
            async for piece in body.iter_pieces():
                await self._forward_events(await offload.run_for(len(events), events.feed, piece))
            rest = [event for event in events.flush() if not sse.is_broken_off(event)]
            if self._reply_filter.expand_calls:  # events of another round may follow
                rest = [sse.terminate_event(event) for event in rest]
            await self._forward_events(rest)
        except ApiError as error:
            await self._end_with_error(error)
            return False
        finally:
            self._context.usage = self._reply_filter.usage or self._tap.usage
            self._context.reply_facts = self._facts
        return await self._end_stream()

    async def _start_stream(self, reply: Reply, *, is_whole: bool = False) -> None:
        """Send the head of a stream, once. The reply that begins it `is_whole` if the upstream did not stream it."""
        self._context.is_streamed = self._has_started_stream = True
        if self._exchange.has_started:
            return
        response_headers = self._build_headers(reply)
        if is_whole:
            response_headers = [header for header in response_headers if header[0].lower() != b"content-type"]
            response_headers.append((b"content-type", relay.EVENT_STREAM.encode()))
        await self._exchange.start_response(reply.status, relay.mark_unbuffered(response_headers))

    async def _end_stream(self) -> bool:
        """Process the end of a streamed round. Return True if another round follows."""
        end = self._reply_filter.end_round()
        if self._needs_next_round:
            return True
        if self._reply_filter.awaits_expansion:
            if self._is_reply_empty:
                await self._end_with_error(_no_answer_error())
                return False
            end = self._reply_filter.finish_stream()
        await self._forward_events([end], is_filtered=True)
        await self._store_hidden()
        rest = self._tap.flush()
        self._context.outcome = "upstream_error" if self._tap.has_failed else self._context.outcome
        await self._exchange.end_response(rest)
        return False

    async def _join_stream(self, body: OpenBody) -> Json:
        """Return a streamed reply as a whole one, for a client that asked for no stream.

        Raises:
            UpstreamError: 502 if the stream reports an error, or breaks off in a call or before any content.
        """
        reply_filter, events = self._adapter.create_reply_filter(), sse.EventSplitter()
        for event in [*events.feed(await body.read()), *events.flush()]:
            reply_filter.filter_event(event)
            if has_error(data := sse.parse_data(event)):
                raise UpstreamError(502, f"the upstream reported an error: {describe_error(data)}")
        is_complete = reply_filter.is_complete
        reply_filter.end_round()
        text, calls = shadow.extract_content(reply_filter)
        is_whole = all(json_types.parse_object(arguments.encode()) for _, arguments in calls)
        if not is_complete and not (is_whole and (text or calls or reply_filter.expand_calls)):
            raise UpstreamError(502, "the upstream's stream ended before its reply", code="upstream_disconnected")
        return reply_filter.build_whole_reply()

    async def _relay_json(self, reply: Reply, payload: bytes) -> bool:
        work = offload.measure_work(payload)
        message = await offload.run_for(work, json_types.parse_object_exactly, payload)
        is_searched = self._wants_stream or message is None
        may_hold_call = is_searched and await offload.run_for(len(payload), _may_hold_call, payload)
        if self._has_started_stream or (self._wants_stream and may_hold_call):
            return await self._relay_as_stream(reply, payload, message)
        if message is None and (self._reply_filter.has_hidden_rounds or may_hold_call):
            self._context.usage = self._reply_filter.usage  # earlier rounds are billed
            raise UpstreamError(502, "the upstream's reply is not valid JSON", code="invalid_reply")
        visible = message if message is None else await offload.run_for(work, self._reply_filter.filter_reply, message)
        self._facts = usage_fields.read_facts(message or {}, self._facts)
        self._context.usage, self._context.reply_facts = self._reply_filter.usage, self._facts
        if not self._context.usage and (received_text := self._context.count_received_text()) is not None:
            await offload.run_for(len(payload), received_text.feed_whole_reply, payload)
        if self._needs_next_round:
            return True
        if self._reply_filter.awaits_expansion and self._is_reply_empty:
            raise _no_answer_error()
        relay.record_reply_error(self._context, message)
        await self._store_hidden()
        body = payload if visible is message else await offload.run_for(work, json_codec.dumps, visible)
        await relay.send_whole_body(self._exchange, reply.status, self._build_headers(reply), body)
        return False

    async def _relay_as_stream(self, reply: Reply, payload: bytes, message: Json | None) -> bool:
        """Relay a whole reply to a client that has seen the beginning of a stream, or asked for one."""
        if message is None or has_error(message):
            self._context.outcome = "upstream_error"
            await self._start_stream(reply, is_whole=True)
            event = await offload.run_for(len(payload), self._encode_upstream_error, payload, reply.status)
            await self._exchange.end_response(event)
            return False
        await self._start_stream(reply, is_whole=True)
        events = await offload.run_for(len(payload), reply_events.split_reply, self._adapter.name, message)
        await self._forward_events(events)
        self._context.usage = self._reply_filter.usage
        return await self._end_stream()

    def _is_refused_for_length(self, status: int, error: bytes) -> bool:
        """Return True if the upstream refuses a further round because the originals do not fit into its context."""
        is_further_round = self._reply_filter.has_hidden_rounds and not self._is_last_round
        return is_further_round and status in (400, 413, 422) and (status == 413 or bool(_TOO_LONG.search(error)))

    @property
    def _is_last_round(self) -> bool:
        return self._handler.is_exhausted or self._is_too_long

    @property
    def _needs_next_round(self) -> bool:
        return self._reply_filter.awaits_expansion and not self._is_last_round

    @property
    def _is_reply_empty(self) -> bool:
        """Return True if the client would get neither text nor a call of its tools."""
        text, calls = shadow.extract_content(self._reply_filter)
        return not text.strip() and not calls

    async def _forward_events(self, events: Sequence[bytes], *, is_filtered: bool = False) -> None:
        """Send the visible part of events to the client."""
        for start in range(0, len(events), EVENTS_AT_ONCE):
            if start:
                await asyncio.sleep(0)  # other requests have their turn
            batch = events[start : start + EVENTS_AT_ONCE]
            size = sum(map(len, batch))
            if visible := await offload.run_for(size, self._filter_events, batch, is_filtered=is_filtered):
                if self._reply_filter.is_complete and not self._needs_next_round:
                    await self._store_hidden()
                await self._exchange.write_chunk(visible)

    def _filter_events(self, events: Sequence[bytes], *, is_filtered: bool) -> bytes:
        """Return the visible part of events."""
        if not is_filtered:
            for event in events:
                if b'"usage"' in event:
                    self._facts = usage_fields.read_facts(sse.parse_data(event), self._facts)
            if (received_text := self._context.count_received_text()) is not None:
                received_text.feed(b"".join(events))
            events = [self._reply_filter.filter_event(event) for event in events]
        return b"".join(map(self._tap.feed, events))

    async def _end_with_error(self, error: ApiError) -> None:
        self._context.outcome = "upstream_error"
        event = self._adapter.encode_error_event(error)
        await self._exchange.end_response(self._tap.discard_partial_event() + event)

    async def _store_hidden(self) -> None:
        """Store the hidden calls before the client sees the end of the reply and can send the next request.

        Calls that stand beside calls of the client's tools have no result yet, since no round followed them. They are
        answered here, because the next request must hold a result for each of them.
        """
        if self._has_stored_hidden:
            return
        self._has_stored_hidden = True
        calls = self._reply_filter.expand_calls
        self._context.hidden_call_tokens = sum(self._vocabulary.count(call.name + call.arguments) for call in calls)
        try:
            await self._expand_tool.store_hidden(await self._handler.answer_calls(calls) if calls else [])
        except OriginalsError as error:  # the next turn loses a part of the provider's cache, and no content
            log.warning("hidden tool calls cannot be stored: %s", error)
        self._context.fetched_tokens = self._handler.fetched_tokens

    def _encode_upstream_error(self, body: bytes, status: int) -> bytes:
        """Return an upstream's error as the last event, on one line. Without a JSON error, the event has the status."""
        error = json_types.parse_object_exactly(body)
        if error is None or not (status >= 400 or has_error(error)):
            message = f"the upstream answered with status {status}"
            if status < 400:
                message += ", but with neither an event stream nor JSON"
            return self._adapter.encode_error_event(UpstreamError(502, message))
        return sse.encode_event(json_codec.dumps(error), name=self._adapter.error_event_name)

    def _build_headers(self, reply: Reply) -> RawHeaders:
        upstream_headers = headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
        return upstream_headers + self._context.build_response_headers()


def _may_hold_call(payload: bytes) -> bool:
    """Return True if the name of a hidden tool occurs in a reply."""
    return any(name.encode() in payload for name in expand_call.HIDDEN_TOOL_NAMES)


def _no_answer_error() -> UpstreamError:
    """Return the error for a model that calls the tool even in the last round, which does not offer it."""
    message = "the model gave no answer: even to the unchanged request it only called a tool that is not offered"
    return UpstreamError(502, message, code="no_answer", headers={"x-should-retry": "false"})
