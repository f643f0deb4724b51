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
from ..http.exchange import CancelOnDisconnect, ClientDisconnected, Exchange, Receive, Scope, Send, decode_body
from ..http.relay import Reply
from ..http.request_context import RequestContext
from ..http.shadow import BodyRecorder
from ..pipeline.rewrite import BodyRewriter
from ..protocols import chat, json_types
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_object
from ..protocols.protocol import ProtocolAdapter
from ..runtime.services import Services

_DROPPED_WHEN_REWRITTEN = frozenset({b"accept-encoding", b"content-encoding"})
_DROPPED_WHEN_UNCHANGED = frozenset({b"accept-encoding"})
_INCLUDE_USAGE_PREFIX = b'{"stream_options":{"include_usage":true},'


class CompletionEndpoint:
    """`POST` to one protocol's path, as an ASGI application."""

    def __init__(self, services: Services, adapter: ProtocolAdapter) -> None:
        self._services = services
        self._adapter = adapter
        self._body_rewriter = BodyRewriter(
            services.settings, services.conversation_compressor, services.auto_mode, adapter
        )
        self._default_options = request_options.build_default_options(services.settings)
        self._max_body_bytes = services.settings.max_body_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and leave one row in the ledger."""
        copied = BodyRecorder(send) if self._services.shadows.should_check() else None
        exchange = Exchange(scope, receive, copied or send)
        visit = RequestContext(
            str(scope["path"]),
            authentication.get_default_options(scope, self._default_options),
            protocol=self._adapter.name,
        )
        with suppress(ClientDisconnected), visit.record_in_ledger(self._services.ledger):
            async with relay.answer_errors(exchange, visit, self._adapter):
                visit.options = request_options.parse_headers(exchange.headers, visit.options)
                raw = await exchange.read_body(self._max_body_bytes)
                with CancelOnDisconnect(exchange):
                    plain = await self._answer_request(exchange, visit, raw)
                if copied is not None and plain is not None:
                    self._services.shadows.start_check(
                        visit, self._adapter, plain, copied, self._create_sender(exchange, visit)
                    )

    async def _answer_request(self, exchange: Exchange, context: RequestContext, raw: bytes) -> bytes | None:
        """Answer; return the body as the client meant it, its bill asked for, where it was ours to shorten."""
        plain = decode_body(raw, exchange.headers.get("content-encoding", ""), self._max_body_bytes)
        body = json_types.parse_object(plain)  # what is no JSON object is the upstream's to refuse
        if plain is None or body is None:
            context.skip_counts = {"unknown-shape": 1}
            await self._forward_unchanged(exchange, context, raw)
            return None
        context.model, context.is_streamed = str(body.get("model") or "")[:200], body.get("stream") is True
        context.alias_of = self._services.providers.get_litellm_name(context.model)
        self._reject_litellm_model(context)
        if latent_chat.is_answered_by_clara(context, self._adapter, self._services.clara):
            clara = clara_routes.get_local_clara(self._services)
            await latent_chat.answer_chat(exchange, context, body, clara, self._services.settings.clara_timeout)
            return None
        who = authentication.get_owner_id(exchange.scope)
        offer = self._create_expand_tool(context, body, who)
        shorter = await self._body_rewriter.rewrite_body(context, plain, body, who, offer)
        asks = self._should_request_usage(exchange, context, body)
        outgoing, whole = (_INCLUDE_USAGE_PREFIX + each.lstrip()[1:] if asks else each for each in (shorter, plain))
        context.overhead_seconds = perf_counter() - context.start_time
        if offer is not None and context.offers_expand_tool:
            await ToolLoop(exchange, context, offer, strip_usage=asks).run(
                self._create_sender(exchange, context), outgoing, whole
            )
        elif outgoing is plain and not self._uses_litellm(context):
            await self._forward_unchanged(exchange, context, raw)
        else:
            async with self._create_sender(exchange, context)(outgoing) as reply:
                await relay.relay_reply(exchange, context, reply, self._adapter, strip_usage=asks)
        return _INCLUDE_USAGE_PREFIX + plain.lstrip()[1:] if asks else plain

    def _create_expand_tool(self, context: RequestContext, body: Json, owner_id: str) -> ExpandTool | None:
        """Make the model the offer of what was left out, where it may call tools and nobody else reads the text."""
        if context.options.retrieve not in ("auto", "tool") or context.options.bypass:
            return None
        return create_expand_tool(
            self._adapter,
            body,
            ExpandHandler(self._services.originals, owner_id, get_token_counter(context.pricing_model)),
        )

    def _uses_litellm(self, context: RequestContext) -> bool:
        return self._adapter is chat.ADAPTER and self._services.providers.serves(context.model)

    def _reject_litellm_model(self, context: RequestContext) -> None:
        """Refuse a model that goes through litellm where that has no part: no upstream of this path knows the name.

        A name with a provider's prefix only says so where the upstream is the maker's own; a gateway may serve it.
        """
        if self._adapter is chat.ADAPTER or not self._services.providers.serves(context.model):
            return
        field = "anthropic_base_url" if self._adapter.is_anthropic else "upstream_base_url"
        makers = getattr(self._services.settings, field) == Settings.model_fields[field].default
        if makers or context.alias_of:
            message = (
                f"the model {context.model} is served through litellm, on /v1/chat/completions alone: ask for it there"
            )
            raise ApiError(400, message, param="model", code="unsupported_model")

    def _create_sender(self, exchange: Exchange, context: RequestContext) -> "UpstreamSender":
        return UpstreamSender(self._services, self._adapter, exchange, through_litellm=self._uses_litellm(context))

    async def _forward_unchanged(self, exchange: Exchange, context: RequestContext, raw: bytes) -> None:
        context.overhead_seconds = context.overhead_seconds or perf_counter() - context.start_time
        async with UpstreamSender(self._services, self._adapter, exchange).send_unchanged(raw) as reply:
            await relay.relay_reply(exchange, context, reply, self._adapter, strip_usage=False)

    def _should_request_usage(self, exchange: Exchange, context: RequestContext, body: Json) -> bool:
        """Say whether we ask for the usage of a stream: only where the client said nothing about it.

        Raises:
            ApiError: 403 where a key with a budget would not have its bill told.
        """
        if self._adapter is not chat.ADAPTER or not context.is_streamed:
            return False
        silent = "stream_options" not in body
        if authentication.has_budget(exchange.scope):
            options = body.get("stream_options")
            if not silent and not (is_object(options) and options.get("include_usage") is True):
                message = "this key has a budget: leave stream_options.include_usage to the proxy, or set it"
                raise ApiError(403, message, param="stream_options", code="unmetered")
            return silent
        return silent and self._services.settings.stream_usage and context.mode != "off"


class UpstreamSender:
    """Sends bodies to where one client's request goes, with its headers; the client's key goes to its upstream only."""

    def __init__(
        self, services: Services, adapter: ProtocolAdapter, exchange: Exchange, *, through_litellm: bool = False
    ) -> None:
        self._services, self._adapter, self._exchange = services, adapter, exchange
        self._through_litellm = through_litellm

    def __call__(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send a body that is not the client's own any more."""
        if self._through_litellm:
            return self._services.providers.send(json_types.parse_object(body) or {})
        return self._send_upstream(body, _DROPPED_WHEN_REWRITTEN)

    def send_unchanged(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send the client's own body, encoded as it came."""
        return self._send_upstream(body, _DROPPED_WHEN_UNCHANGED)

    def _send_upstream(self, body: bytes, excluded: frozenset[bytes]) -> AbstractAsyncContextManager[Reply]:
        settings = self._services.settings
        base = settings.anthropic_base_url if self._adapter.is_anthropic else settings.upstream_base_url
        upward = authentication.build_upstream_headers(
            self._exchange, settings, is_anthropic=self._adapter.is_anthropic, excluded=excluded
        )
        upward.append(("accept-encoding", "identity"))
        url = headers.build_upstream_url(base, self._exchange.scope)
        return self._services.chat_upstream.send("POST", url, upward, body)
