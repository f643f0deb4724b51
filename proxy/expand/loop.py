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

    def __init__(self, exchange: Exchange, visit: RequestContext, offer: ExpandTool, *, strip_usage: bool) -> None:
        self._exchange, self._visit, self._offer = exchange, visit, offer
        self._listener, self._shelf = offer.reply_filter, offer.handler
        self._strip = strip_usage
        self._tap = sse.UsageTap(strip=strip_usage)
        self._sent = visit.received_tokens - visit.saved_tokens
        self._remembered = False

    async def run(self, ask: SendBody, body: bytes, whole: bytes) -> None:
        """Ask until the model waits for nobody but the client, and relay what it says.

        A model that does not stop asking for what was left out gets it all at last: the `whole` request, as it came.
        """
        while True:
            async with ask(body) as reply:
                if not await self._relay(reply):
                    return
            results = await self._shelf.answer_calls(self._listener.expand_calls)
            self._visit.round_usages.append(self._listener.usage)
            further = self._listener.start_next_round(results)
            body = self._at_last(whole) if self._shelf.is_exhausted else self._further(body, further)

    async def _relay(self, reply: Reply) -> bool:
        """Bring one reply to the client; true when the model waits for us."""
        self._visit.status = reply.status
        self._visit.outcome = "ok" if reply.status < 400 else "upstream_error"
        if reply.status < 400 and reply.content_type == "text/event-stream":
            return await self._streamed(reply)
        if reply.status < 400 and reply.content_type == "application/json" and not self._exchange.has_started:
            return await self._whole(reply)
        if self._exchange.has_started:
            self._visit.outcome = "upstream_error"
            await self._exchange.end_response(self._refusal(await reply.read(), reply.status))
        else:
            await relay.relay_reply(self._exchange, self._visit, reply, self._offer.adapter, strip_usage=self._strip)
            self._visit.usage = self._listener.usage or self._visit.usage  # what earlier rounds have used is billed
        return False

    async def _streamed(self, reply: Reply) -> bool:
        if not self._exchange.has_started:
            self._visit.is_streamed = True
            await self._exchange.start_response(reply.status, self._headers(reply))
        events = sse.EventSplitter()
        try:
            async for chunk in reply.chunks():
                await self._pass_on(events.feed(chunk))
            await self._pass_on(events.flush())
        except ApiError as error:
            self._visit.outcome = "upstream_error"
            await self._exchange.end_response(
                self._tap.discard_partial_event() + self._offer.adapter.encode_error_event(error)
            )
            return False
        finally:
            self._visit.usage = self._listener.usage or self._tap.usage
        if self._goes_on:
            return True
        if self._listener.awaits_expansion:
            if self._says_nothing:
                self._visit.outcome = "upstream_error"
                await self._exchange.end_response(
                    self._tap.discard_partial_event() + self._offer.adapter.encode_error_event(_no_answer())
                )
                return False
            await self._pass_on([self._listener.finish_stream()], heard=True)
        await self._remember()
        last = self._tap.flush()
        self._visit.outcome = "upstream_error" if self._tap.has_failed else self._visit.outcome
        await self._exchange.end_response(last)
        return False

    async def _whole(self, reply: Reply) -> bool:
        payload = await reply.read()
        answer = json_types.parse_object(payload)
        shown = answer if answer is None else self._listener.filter_reply(answer)
        self._visit.usage = self._listener.usage
        if self._goes_on:
            return True
        if self._listener.awaits_expansion and self._says_nothing:
            raise _no_answer()
        relay.record_reply_error(self._visit, answer)
        await self._remember()
        own = payload if shown is answer else orjson.dumps(shown)
        await self._exchange.send_response(reply.status, self._headers(reply), own)
        return False

    @property
    def _goes_on(self) -> bool:
        return self._listener.awaits_expansion and not self._shelf.is_exhausted

    @property
    def _says_nothing(self) -> bool:
        """Say whether the client would get neither a word nor a call of its tools."""
        text, calls = shadow.extract_content(self._listener)
        return not text.strip() and not calls

    async def _pass_on(self, events: Sequence[bytes], *, heard: bool = False) -> None:
        """Hand events on, those that the listener has not heard yet as it lets them."""
        passed = b"".join(self._tap.feed(event if heard else self._listener.filter_event(event)) for event in events)
        if passed:
            if self._listener.is_complete and not self._goes_on:
                await self._remember()
            await self._exchange.write_chunk(passed)

    async def _remember(self) -> None:
        """Keep what the client does not see, before it knows the end and can send the next request."""
        if self._remembered:
            return
        self._remembered = True
        calls = self._listener.expand_calls
        counted = get_token_counter(self._visit.pricing_model)
        self._visit.hidden_call_tokens = sum(counted.count(expand_call.TOOL_NAME + call.arguments) for call in calls)
        try:
            await self._offer.store_hidden(await self._shelf.answer_calls(calls) if calls else [])
        except OriginalsError as error:  # it costs the next turn a part of the provider's cache, and no answer
            log.warning("what was expanded is not remembered: %s", error)
        self._visit.fetched_tokens = self._shelf.fetched_tokens

    def _refusal(self, body: bytes, status: int) -> bytes:
        """Write an upstream's error as the last event, on one line; one that is no JSON is told by its status."""
        told, wire = json_types.parse_object(body), self._offer.adapter
        if told is None or not (status >= 400 or has_error(told)):
            return wire.encode_error_event(UpstreamError(502, f"the upstream answered with status {status}"))
        return sse.encode_event(orjson.dumps(told), name=wire.error_event_name)

    def _further(self, body: bytes, elements: Sequence[Json]) -> bytes:
        written = [orjson.dumps(element) for element in elements]
        self._sent += token_counts.count_elements(
            self._offer.adapter, elements, get_token_counter(self._visit.pricing_model)
        )
        self._visit.add_proxy_tokens(self._sent)
        self._visit.fetched_tokens = self._shelf.fetched_tokens
        return self._offer.adapter.append_elements(body, written)

    def _at_last(self, whole: bytes) -> bytes:
        self._sent = self._visit.received_tokens
        self._visit.add_proxy_tokens(self._sent)
        self._visit.fetched_tokens = self._shelf.fetched_tokens
        self._visit.skip_counts["too-many-expansions"] = 1
        return whole

    def _headers(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        return (
            headers.filter_response_headers(reply.headers, without=headers.BODY_HEADERS)
            + self._visit.build_response_headers()
        )


def _no_answer() -> UpstreamError:
    """Return what a model's reply amounts to that goes on calling a tool which is not there; asked again, it would."""
    message = "the model gave no answer: to the request as it came, too, it called only a tool that it does not have"
    return UpstreamError(502, message, code="no_answer", headers={"x-should-retry": "false"})
