"""Answers one protocol's requests: read, shorten, forward, relay, and account for it, whatever happens.

This is the one request path, in the order of the house: steering, adapter, shortening, splice, upstream, relay, ledger.
It owns no pool, no file and no thread; those are the services'.
"""

from contextlib import AbstractAsyncContextManager, suppress
from time import perf_counter

from ...compression.tokens import get_token_counter
from ...config.settings import Settings
from ..access import authentication
from ..clara import clara_routes, latent_chat
from ..expand.handler import ExpandHandler
from ..expand.loop import ToolLoop
from ..expand.tool import ExpandTool, create_expand_tool
from ..http import headers, relay, request_options
from ..http.exchange import ClientDisconnected, Exchange, Receive, Scope, Send, CancelOnDisconnect, decode_body
from ..http.relay import Reply
from ..http.request_context import RequestContext
from ..http.shadow import BodyRecorder
from ..pipeline.rewrite import BodyRewriter
from ..protocols import chat, json_types
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_object
from ..protocols.protocol import ProtocolAdapter
from ..runtime.services import Services

_REWRITTEN = frozenset({b"accept-encoding", b"content-encoding"})
_AS_IT_CAME = frozenset({b"accept-encoding"})
_ASK_USAGE = b'{"stream_options":{"include_usage":true},'


class CompletionEndpoint:
    """`POST` to one protocol's path, as an ASGI application."""

    def __init__(self, services: Services, wire: ProtocolAdapter) -> None:
        self._services = services
        self._wire = wire
        self._condenser = BodyRewriter(services.settings, services.conversation_compressor, services.auto_mode, wire)
        self._defaults = request_options.build_default_options(services.settings)
        self._limit = services.settings.max_body_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and leave one row in the ledger."""
        copied = BodyRecorder(send) if self._services.shadows.should_check() else None
        exchange = Exchange(scope, receive, copied or send)
        visit = RequestContext(
            str(scope["path"]), authentication.get_default_options(scope, self._defaults), protocol=self._wire.name
        )
        with suppress(ClientDisconnected), visit.record_in_ledger(self._services.ledger):
            async with relay.answer_errors(exchange, visit, self._wire):
                visit.options = request_options.parse_headers(exchange.headers, visit.options)
                raw = await exchange.read_body(self._limit)
                with CancelOnDisconnect(exchange):
                    plain = await self._answer(exchange, visit, raw)
                if copied is not None and plain is not None:
                    self._services.shadows.start_check(visit, self._wire, plain, copied, self._asker(exchange, visit))

    async def _answer(self, exchange: Exchange, visit: RequestContext, raw: bytes) -> bytes | None:
        """Answer; return the body as the client meant it, its bill asked for, where it was ours to shorten."""
        plain = decode_body(raw, exchange.headers.get("content-encoding", ""), self._limit)
        body = json_types.parse_object(plain)  # what is no JSON object is the upstream's to refuse
        if plain is None or body is None:
            visit.skip_counts = {"unknown-shape": 1}
            await self._as_it_came(exchange, visit, raw)
            return None
        visit.model, visit.is_streamed = str(body.get("model") or "")[:200], body.get("stream") is True
        visit.alias_of = self._services.providers.get_litellm_name(visit.model)
        self._refuse_what_others_serve(visit)
        if latent_chat.is_answered_by_clara(visit, self._wire, self._services.clara):
            clara = clara_routes.get_local_clara(self._services)
            await latent_chat.answer_chat(exchange, visit, body, clara, self._services.settings.clara_timeout)
            return None
        who = authentication.get_owner_id(exchange.scope)
        offer = self._offer(visit, body, who)
        shorter = await self._condenser.rewrite_body(visit, plain, body, who, offer)
        asks = self._asks_usage(exchange, visit, body)
        outgoing, whole = (_ASK_USAGE + each.lstrip()[1:] if asks else each for each in (shorter, plain))
        visit.overhead_seconds = perf_counter() - visit.start_time
        if offer is not None and visit.offers_expand_tool:
            await ToolLoop(exchange, visit, offer, strip_usage=asks).run(self._asker(exchange, visit), outgoing, whole)
        elif outgoing is plain and not self._is_for_provider(visit):
            await self._as_it_came(exchange, visit, raw)
        else:
            async with self._asker(exchange, visit)(outgoing) as reply:
                await relay.relay_reply(exchange, visit, reply, self._wire, strip_usage=asks)
        return _ASK_USAGE + plain.lstrip()[1:] if asks else plain

    def _offer(self, visit: RequestContext, body: Json, who: str) -> ExpandTool | None:
        """Make the model the offer of what was left out, where it may call tools and nobody else reads the text."""
        if visit.options.retrieve not in ("auto", "tool") or visit.options.bypass:
            return None
        return create_expand_tool(
            self._wire, body, ExpandHandler(self._services.originals, who, get_token_counter(visit.pricing_model))
        )

    def _is_for_provider(self, visit: RequestContext) -> bool:
        return self._wire is chat.ADAPTER and self._services.providers.serves(visit.model)

    def _refuse_what_others_serve(self, visit: RequestContext) -> None:
        """Refuse a model that goes through litellm where that has no part: no upstream of this path knows the name.

        A name with a provider's prefix only says so where the upstream is the maker's own; a gateway may serve it.
        """
        if self._wire is chat.ADAPTER or not self._services.providers.serves(visit.model):
            return
        field = "anthropic_base_url" if self._wire.is_anthropic else "upstream_base_url"
        makers = getattr(self._services.settings, field) == Settings.model_fields[field].default
        if makers or visit.alias_of:
            message = (
                f"the model {visit.model} is served through litellm, on /v1/chat/completions alone: ask for it there"
            )
            raise ApiError(400, message, param="model", code="unsupported_model")

    def _asker(self, exchange: Exchange, visit: RequestContext) -> "UpstreamSender":
        return UpstreamSender(self._services, self._wire, exchange, through_provider=self._is_for_provider(visit))

    async def _as_it_came(self, exchange: Exchange, visit: RequestContext, raw: bytes) -> None:
        visit.overhead_seconds = visit.overhead_seconds or perf_counter() - visit.start_time
        async with UpstreamSender(self._services, self._wire, exchange).send_unchanged(raw) as reply:
            await relay.relay_reply(exchange, visit, reply, self._wire, strip_usage=False)

    def _asks_usage(self, exchange: Exchange, visit: RequestContext, body: Json) -> bool:
        """Say whether we ask for the usage of a stream: only where the client said nothing about it.

        Raises:
            ApiError: 403 where a key with a budget would not have its bill told.
        """
        if self._wire is not chat.ADAPTER or not visit.is_streamed:
            return False
        silent = "stream_options" not in body
        if authentication.has_budget(exchange.scope):
            options = body.get("stream_options")
            if not silent and not (is_object(options) and options.get("include_usage") is True):
                message = "this key has a budget: leave stream_options.include_usage to the proxy, or set it"
                raise ApiError(403, message, param="stream_options", code="unmetered")
            return silent
        return silent and self._services.settings.stream_usage and visit.mode != "off"


class UpstreamSender:
    """Sends bodies to where one client's request goes, with its headers; the client's key goes to its upstream only."""

    def __init__(
        self, services: Services, wire: ProtocolAdapter, exchange: Exchange, *, through_provider: bool = False
    ) -> None:
        self._services, self._wire, self._exchange = services, wire, exchange
        self._through_provider = through_provider

    def __call__(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send a body that is not the client's own any more."""
        if self._through_provider:
            return self._services.providers.send(json_types.parse_object(body) or {})
        return self._send(body, _REWRITTEN)

    def send_unchanged(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send the client's own body, encoded as it came."""
        return self._send(body, _AS_IT_CAME)

    def _send(self, body: bytes, without: frozenset[bytes]) -> AbstractAsyncContextManager[Reply]:
        settings = self._services.settings
        base = settings.anthropic_base_url if self._wire.is_anthropic else settings.upstream_base_url
        upward = authentication.build_upstream_headers(
            self._exchange, settings, anthropic=self._wire.is_anthropic, without=without
        )
        upward.append(("accept-encoding", "identity"))
        url = headers.build_upstream_url(base, self._exchange.scope)
        return self._services.chat_upstream.send("POST", url, upward, body)
