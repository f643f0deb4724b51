"""Answers one protocol's requests: read, compress, forward, relay, and write a ledger row.

This is the request path of every protocol: request options, adapter, compression, upstream, relay, ledger. It owns no
pool, file or thread; `Services` does.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from time import perf_counter
from urllib.parse import urlsplit

from ...compression.tokens import get_token_counter
from ...config.settings import Settings
from ..access import authentication
from ..access.reservations import Reservation
from ..clara import latent_chat, latent_responses
from ..expand.handler import ExpandHandler
from ..expand.loop import SendBody, ToolLoop
from ..expand.tool import ExpandTool, create_expand_tool, find_stored_reply, restore_stored_reply
from ..http import headers, model_names, relay, request_options
from ..http.body_budget import BodyReservation
from ..http.cache_misses import CacheMissDetector
from ..http.content_encoding import decode_body
from ..http.exchange import CancelOnDisconnect, ClientDisconnected, Exchange, Receive, Scope, Send
from ..http.relay import Reply
from ..http.request_context import RequestContext
from ..http.shadow import BodyRecorder
from ..memory.requests import PreparedRequest, RequestMemory
from ..pipeline.rewrite import BodyRewriter, write_body
from ..protocols import chat, json_edit, json_types, messages, offload, responses
from ..protocols.api_errors import ApiError
from ..protocols.json_edit import JsonEditError
from ..protocols.json_types import Json, is_object
from ..protocols.protocol import ProtocolAdapter
from ..protocols.request_json import parse_request
from ..runtime.services import Services

_DROPPED_WHEN_REWRITTEN = frozenset({b"accept-encoding", b"content-encoding"})
_DROPPED_WHEN_UNCHANGED = frozenset({b"accept-encoding"})
_INCLUDE_USAGE: Json = {"stream_options": {"include_usage": True}}
_USAGE_PREFIX = b'{"stream_options":{"include_usage":true},'  # of a body with the field added by the proxy
_REFUSAL_STATUSES = frozenset({400, 422})
log = logging.getLogger(__name__)


class CompletionEndpoint:
    """`POST` to one protocol's path, as an ASGI application."""

    def __init__(self, services: Services, adapter: ProtocolAdapter) -> None:
        self._services = services
        self._adapter = adapter
        self._body_rewriter = BodyRewriter(
            services.settings, services.conversation_compressor, services.auto_mode, adapter
        )
        self._memory = RequestMemory(services.memory, services.originals)
        self._default_options = request_options.build_default_options(services.settings)
        self._max_body_bytes = services.settings.max_body_mb * 2**20
        self._usage_refusals = set[str]()
        self._cache_misses = CacheMissDetector()
        self._region = _find_region(services.settings.upstream_base_url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and write one row to the ledger."""
        recorder = BodyRecorder(send) if self._services.shadows.should_check() else None
        exchange = Exchange(scope, receive, recorder or send)
        context = RequestContext(
            str(scope["path"]),
            authentication.get_default_options(scope, self._default_options),
            protocol=self._adapter.name,
            region="" if self._adapter.is_anthropic else self._region,
            cache_misses=self._cache_misses,
        )
        with suppress(ClientDisconnected), context.record_in_ledger(self._services.ledger):
            async with relay.AnswerErrors(exchange, context, self._adapter):
                context.options = request_options.parse_headers(exchange.headers, context.options)
                with self._services.bodies.reserve() as reservation:
                    raw = await exchange.read_body(self._max_body_bytes, reservation)
                    with CancelOnDisconnect(exchange):
                        build_original_body = await self._answer_request(exchange, context, raw, reservation)
                if recorder is not None and build_original_body is not None:
                    self._start_shadow_check(exchange, context, build_original_body(), recorder)

    async def _answer_request(
        self, exchange: Exchange, context: RequestContext, raw: bytes, reservation: BodyReservation
    ) -> Callable[[], bytes] | None:
        """Answer a request. Return a function that builds its uncompressed body, or None if it was not compressible."""
        encoding = exchange.headers.get("content-encoding", "")
        plain = await decode_body(raw, encoding, self._max_body_bytes, reservation)
        work = context.body_work = offload.measure_work(plain or b"")
        owner_id = authentication.get_owner_id(exchange.scope)
        body = await self._parse_body(context, plain, owner_id)
        spending = self._get_reservation(exchange)
        if plain is None or body is None:
            await self._forward_unreadable(exchange, context, raw, spending)
            return None
        model_names.validate_model(body.get("model"))
        context.model, context.is_streamed = str(body.get("model") or "")[:200], body.get("stream") is True
        context.alias_of = self._services.providers.get_litellm_name(context.model)
        self._reject_litellm_model(context)
        if latent_chat.is_answered_by_clara(context, self._adapter, self._services.clara):
            await self._answer_locally(exchange, context, plain, body, owner_id)
            return None
        if latent_chat.is_clara_model(context.model):
            raise latent_chat.build_wrong_path_error(context.model)
        context.settlement = spending
        if not self._services.response_cache.is_enabled:
            return await self._compress_and_forward(exchange, context, raw, plain, body, owner_id)
        async with self._services.response_cache.serve(exchange, context, body, owner_id, work) as is_answered:
            if is_answered:
                return None
            return await self._compress_and_forward(exchange, context, raw, plain, body, owner_id)

    async def _parse_body(self, context: RequestContext, plain: bytes | None, owner_id: str) -> Json | None:
        """Parse a body, in the event loop together with what is known of its conversation if it is not large."""
        if plain is None or context.body_work > offload.INLINE_BYTES:
            return await offload.run_for(context.body_work, parse_request, plain)
        body, context.element_texts = self._services.known_bodies.parse(owner_id, self._adapter.elements_key, plain)
        return body

    async def _answer_locally(
        self, exchange: Exchange, context: RequestContext, plain: bytes, body: Json, owner_id: str
    ) -> None:
        """Answer a request by the local CLaRa."""
        local = await self._memory.prepare_local(context, self._adapter, body, owner_id)
        size = len(plain) + sum(map(len, local.memories))
        await authentication.reserve_local(exchange.scope, context, size, latent_chat.MAX_NEW_TOKENS)
        if local.reply is not None:
            exchange.wrap_send(local.reply.wrap_send)
        is_chat = self._adapter is chat.ADAPTER
        answer = latent_chat.answer_chat if is_chat else latent_responses.answer_response
        await answer(exchange, context, local.body, self._services, local.memories)

    async def _compress_and_forward(
        self, exchange: Exchange, context: RequestContext, raw: bytes, plain: bytes, body: Json, owner_id: str
    ) -> Callable[[], bytes]:
        """Answer a request by its upstream. Return a function that builds its uncompressed body."""
        spending = self._get_reservation(exchange)
        prepared = await self._memory.prepare(context, self._adapter, plain, body, owner_id)
        if prepared.body is not body:
            context.element_texts = ()
        plain, body = prepared.text, prepared.body
        if prepared.reply is not None:
            exchange.wrap_send(prepared.reply.wrap_send)
        expand_tool = self._create_expand_tool(context, body, owner_id)
        if expand_tool is not None:
            expand_tool.work = context.body_work
        rewritten = await self._body_rewriter.rewrite_body(
            context, plain, body, owner_id, expand_tool, prepared.additions
        )
        stored_reply = await self._find_continued_reply(body, owner_id)
        if stored_reply is not None and not context.offers_expand_tool:
            rewritten = restore_stored_reply(rewritten, self._adapter, stored_reply)
        requests_usage = self._should_request_usage(exchange, context, body)
        added_fields = _INCLUDE_USAGE if requests_usage else {}
        outgoing = json_edit.add_fields(rewritten, added_fields)
        build_original_body = partial(_build_original_body, prepared, self._adapter, stored_reply, added_fields)
        context.overhead_seconds = perf_counter() - context.start_time
        if expand_tool is not None and context.offers_expand_tool:
            window = self._services.settings.window
            tool_loop = ToolLoop(exchange, context, expand_tool, strip_usage=requests_usage, default_window=window)
            send_body = self._create_sender(exchange, context, body, has_added_usage=requests_usage)
            await tool_loop.run(send_body, outgoing, build_original_body)
        elif outgoing is plain and not prepared.is_changed and not self._uses_litellm(context):
            if spending is not None:
                await spending.reserve_round(context, body, plain)
            await self._forward_unchanged(exchange, context, raw)
        else:
            send_body = self._create_sender(exchange, context, body, has_added_usage=requests_usage)
            async with send_body(outgoing) as reply:
                await relay.relay_reply(exchange, context, reply, self._adapter, strip_usage=requests_usage)
        return build_original_body

    def _get_reservation(self, exchange: Exchange) -> Reservation | None:
        """Return the reservation of a request that costs something and whose key has a budget."""
        is_free = self._adapter is messages.COUNT_TOKENS_ADAPTER
        return None if is_free else authentication.get_reservation(exchange.scope)

    def _start_shadow_check(
        self, exchange: Exchange, context: RequestContext, original_body: bytes, recorder: BodyRecorder
    ) -> None:
        reservation = self._get_reservation(exchange)
        reservation = None if reservation is None else reservation.fork()
        body = {} if reservation is None else json_types.parse_object(original_body) or {}
        send_body = self._create_sender(
            exchange, context, body, has_added_usage=False, is_shadow=True, reservation=reservation
        )
        self._services.shadows.start_check(context, self._adapter, original_body, recorder, send_body, reservation)

    def _create_expand_tool(self, context: RequestContext, body: Json, owner_id: str) -> ExpandTool | None:
        """Return the expand tool if the request may offer it: the model can call tools, and originals by this tool."""
        if context.options.retrieve not in ("auto", "tool") or context.options.bypass:
            return None
        vocabulary = get_token_counter(context.pricing_model)
        search = self._memory.create_search(context, owner_id)
        handler = ExpandHandler(self._services.originals, owner_id, vocabulary, search)
        return create_expand_tool(self._adapter, body, handler)

    async def _find_continued_reply(self, body: Json, owner_id: str) -> Json | None:
        """Return the record of the stored reply that a Responses request continues, if it has hidden calls."""
        reply_id = body.get("previous_response_id")
        if self._adapter is not responses.ADAPTER or not isinstance(reply_id, str):
            return None
        return await find_stored_reply(self._services.originals, owner_id, reply_id)

    def _uses_litellm(self, context: RequestContext) -> bool:
        return self._adapter is chat.ADAPTER and self._services.providers.serves(context.model)

    def _reject_litellm_model(self, context: RequestContext) -> None:
        """Reject a model that only litellm serves on a path that does not use litellm.

        A name with a provider's prefix is rejected only for the makers' own upstreams: a gateway may serve it.
        """
        if self._adapter is chat.ADAPTER or not self._services.providers.serves(context.model):
            return
        field = "anthropic_base_url" if self._adapter.is_anthropic else "upstream_base_url"
        is_maker = getattr(self._services.settings, field) == Settings.model_fields[field].default
        if is_maker or context.alias_of:
            message = (
                f"the model {context.model} is served through litellm, which is available on /v1/chat/completions only;"
                " send the request there"
            )
            raise ApiError(400, message, param="model", code="unsupported_model")

    def _create_sender(
        self,
        exchange: Exchange,
        context: RequestContext,
        body: Json,
        *,
        has_added_usage: bool,
        is_shadow: bool = False,
        reservation: Reservation | None = None,
    ) -> "SendBody":
        """Return a function that sends bodies upstream; it reserves their cost for a key with a budget.

        A `reservation` is given for a shadow check, whose request has one of its own.
        """
        through_litellm = self._uses_litellm(context)
        may_drop_usage = has_added_usage and not through_litellm and not authentication.has_budget(exchange.scope)
        refusals = self._usage_refusals if may_drop_usage else None
        send_body = UpstreamSender(
            self._services,
            self._adapter,
            exchange,
            through_litellm=through_litellm,
            usage_refusals=refusals,
            is_shadow=is_shadow,
        )
        reservation = reservation or self._get_reservation(exchange)
        return send_body if reservation is None else partial(_reserve_and_send, reservation, context, body, send_body)

    async def _forward_unreadable(
        self, exchange: Exchange, context: RequestContext, raw: bytes, spending: Reservation | None
    ) -> None:
        """Forward a body that cannot be read: the upstream reports the error, or reads the body all the same."""
        if spending is not None:
            problem = "the request body is not a JSON object that the proxy can read"
            spending.reject(problem, "send UTF-8 JSON, plain, gzip or zstd")
        context.skip_counts = {"unknown-shape": 1}
        await self._forward_unchanged(exchange, context, raw)

    async def _forward_unchanged(self, exchange: Exchange, context: RequestContext, raw: bytes) -> None:
        context.overhead_seconds = context.overhead_seconds or perf_counter() - context.start_time
        async with UpstreamSender(self._services, self._adapter, exchange).send_unchanged(raw) as reply:
            await relay.relay_reply(exchange, context, reply, self._adapter, strip_usage=False)

    def _should_request_usage(self, exchange: Exchange, context: RequestContext, body: Json) -> bool:
        """Return True if the proxy asks for the usage of a stream, because the client has set no stream options.

        Raises:
            ApiError: 403 if the key has a budget and the client's stream options hide the usage.
        """
        if self._adapter is not chat.ADAPTER or not context.is_streamed:
            return False
        is_unset = "stream_options" not in body
        if authentication.has_budget(exchange.scope):
            options = body.get("stream_options")
            if not is_unset and not (is_object(options) and options.get("include_usage") is True):
                if (reservation := self._get_reservation(exchange)) is not None:
                    reservation.cancel_start()
                message = "this key has a budget; remove stream_options, or set stream_options.include_usage to true"
                raise ApiError(403, message, param="stream_options", code="unmetered")
            return is_unset
        is_wanted = self._services.settings.stream_usage and context.mode != "off"
        return is_unset and is_wanted and self._services.settings.upstream_base_url not in self._usage_refusals


def _find_region(base_url: str) -> str:
    """Return the region of OpenAI's regional hosts, such as `eu.api.openai.com`, whose prices are higher."""
    region, _, host = (urlsplit(base_url).hostname or "").partition(".")
    return region if host == "api.openai.com" else ""


@asynccontextmanager
async def _reserve_and_send(
    reservation: Reservation, context: RequestContext, body: Json, send_body: SendBody, outgoing: bytes
) -> AsyncGenerator[Reply]:
    """Reserve the cost of one round, then send it; `body` is the client's, parsed."""
    await reservation.reserve_round(context, body, outgoing)
    async with send_body(outgoing) as reply:
        yield reply


def _build_original_body(
    prepared: PreparedRequest, adapter: ProtocolAdapter, stored_reply: Json | None, added_fields: Json
) -> bytes:
    """Return an uncompressed body, with the passages of stores, that continues a stored reply."""
    text, additions = prepared.text, prepared.additions
    if additions.string_edits or additions.array_edits:
        with suppress(JsonEditError):
            text = write_body(text, prepared.body, additions)
    if stored_reply is not None:
        text = restore_stored_reply(text, adapter, stored_reply)
    return json_edit.add_fields(text, added_fields)


class UpstreamSender:
    """Sends bodies upstream with the headers of one client's request. The client's key goes to its upstream only.

    Bodies that ask for usage on the proxy's behalf come with `usage_refusals`: the base URLs of upstreams that have
    refused to be asked. An upstream that refuses gets the body again without that field, and is not asked again.
    """

    def __init__(
        self,
        services: Services,
        adapter: ProtocolAdapter,
        exchange: Exchange,
        *,
        through_litellm: bool = False,
        usage_refusals: set[str] | None = None,
        is_shadow: bool = False,
    ) -> None:
        self._services, self._adapter, self._exchange = services, adapter, exchange
        self._through_litellm = through_litellm
        self._usage_refusals = usage_refusals
        settings = services.settings
        self._base_url = settings.anthropic_base_url if adapter.is_anthropic else settings.upstream_base_url
        self._request_count = 0
        self._is_shadow = is_shadow
        self._accepts_usage = False  # a round has succeeded, so a later refusal has another reason

    def __call__(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send a body that the proxy has written."""
        if self._through_litellm:
            return self._send_to_litellm(body)
        if self._usage_refusals is not None and body.startswith(_USAGE_PREFIX):
            return self._send_with_usage(body, self._usage_refusals)
        return self._send_upstream(body, _DROPPED_WHEN_REWRITTEN)

    @asynccontextmanager
    async def _send_to_litellm(self, body: bytes) -> AsyncGenerator[Reply]:
        fields = await offload.run_for(len(body), json_types.parse_object, body)
        async with self._services.providers.send(fields or {}) as reply:
            yield reply

    def send_unchanged(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send the client's own body, in its own encoding."""
        return self._send_upstream(body, _DROPPED_WHEN_UNCHANGED)

    @asynccontextmanager
    async def _send_with_usage(self, body: bytes, refusals: set[str]) -> AsyncGenerator[Reply]:
        """Send a body that asks for usage, and if it is refused, the body without that field."""
        if self._base_url not in refusals:
            async with self._send_upstream(body, _DROPPED_WHEN_REWRITTEN) as reply:
                if reply.status not in _REFUSAL_STATUSES or self._accepts_usage:
                    self._accepts_usage = self._accepts_usage or reply.status < 400
                    yield reply
                    return
        async with self._send_upstream(b"{" + body[len(_USAGE_PREFIX) :], _DROPPED_WHEN_REWRITTEN) as reply:
            if reply.status < 400 and self._base_url not in refusals:
                refusals.add(self._base_url)
                log.info("the upstream refuses stream_options; from now on streams are not asked for their usage")
            yield reply

    def _send_upstream(self, body: bytes, excluded: frozenset[bytes]) -> AbstractAsyncContextManager[Reply]:
        upstream_headers = authentication.build_upstream_headers(
            self._exchange, self._services.settings, is_anthropic=self._adapter.is_anthropic, excluded=excluded
        )
        upstream_headers = self._renew_idempotency_key(upstream_headers)
        upstream_headers.append(("accept-encoding", "identity"))
        url = headers.build_upstream_url(self._base_url, self._exchange.scope)
        return self._services.chat_upstream.send("POST", url, upstream_headers, body)

    def _renew_idempotency_key(self, upstream_headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Give shadow checks and further requests keys of their own: else an upstream would repeat its first reply."""
        self._request_count += 1
        if self._request_count == 1 and not self._is_shadow:
            return upstream_headers
        suffix = "shadow" if self._is_shadow else self._request_count
        return [
            (name, f"{value}-{suffix}" if name.lower().endswith("idempotency-key") else value)
            for name, value in upstream_headers
        ]
