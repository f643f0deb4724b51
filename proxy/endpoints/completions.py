"""Answers one protocol's requests: read, compress, forward, relay, and write a ledger row.

This is the request path of every protocol: request options, adapter, compression, upstream, relay, ledger. It owns no
pool, file or thread; `Services` does.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit

from ...compression.tokens import get_token_counter
from ...config.settings import Settings
from ..access import authentication
from ..access.reservations import Reservation
from ..clara import latent_chat, latent_responses
from ..expand.handler import ExpandHandler
from ..expand.loop import SendBody, ToolLoop
from ..expand.tool import ExpandTool, create_expand_tool, find_stored_reply, restore_stored_reply
from ..http import model_names, relay, request_options
from ..http.body_budget import BodyReservation
from ..http.cache_misses import CacheMissDetector
from ..http.content_encoding import decode_body
from ..http.exchange import CancelOnDisconnect, ClientDisconnected, Exchange, Receive, Scope, Send
from ..http.relay import Reply
from ..http.request_context import RequestContext
from ..http.request_headers import find_headers
from ..http.shadow import BodyRecorder
from ..memory.requests import PreparedRequest, RequestMemory
from ..pipeline.rewrite import BodyRewriter, write_body
from ..protocols import chat, json_edit, json_types, messages, offload, responses
from ..protocols.api_errors import ApiError
from ..protocols.json_edit import JsonEditError
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import ProtocolAdapter
from ..protocols.request_json import parse_request
from ..runtime.services import Services
from .upstream_sender import UpstreamSender

_INCLUDE_USAGE: Json = {"stream_options": {"include_usage": True}}
_KNOWN_MODELS = 256  # names of models


class _ModelRoute(NamedTuple):
    """Where requests for a model go. `alias_of` is litellm's name of a configured model."""

    model: str
    alias_of: str
    uses_litellm: bool
    is_clara: bool


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
        self._find_route = lru_cache(_KNOWN_MODELS)(self._create_valid_route)
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
        try:
            with context.record_in_ledger(self._services.ledger):
                async with relay.AnswerErrors(exchange, context, self._adapter):
                    await self._read_and_answer(exchange, context, recorder)
        except ClientDisconnected:
            return

    async def _read_and_answer(
        self, exchange: Exchange, context: RequestContext, recorder: BodyRecorder | None
    ) -> None:
        if find_headers(exchange.scope).derive(request_options.has_options):
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
        plain: bytes | None = raw
        if b"content-encoding" in find_headers(exchange.scope).by_name:
            encoding = exchange.headers["content-encoding"]
            plain = await decode_body(raw, encoding, self._max_body_bytes, reservation)
        work = context.body_work = offload.measure_work(plain or b"")
        owner_id = authentication.get_owner_id(exchange.scope)
        body = await self._parse_body(context, plain, owner_id)
        spending = self._get_reservation(exchange)
        if plain is None or body is None:
            await self._forward_unreadable(exchange, context, raw, spending)
            return None
        route = self._read_route(body.get("model"))
        context.model, context.is_streamed, context.alias_of = route.model, body.get("stream") is True, route.alias_of
        if route.uses_litellm:
            self._reject_litellm_model(context)
        if route.is_clara or context.options.mode == "latent":
            if latent_chat.is_answered_by_clara(context, self._adapter, self._services.clara):
                await self._answer_locally(exchange, context, plain, body, owner_id)
                return None
            if route.is_clara:
                raise latent_chat.build_wrong_path_error(context.model)
        context.settlement = spending
        if not self._services.response_cache.is_enabled:
            return await self._compress_and_forward(exchange, context, raw, plain, body, owner_id)
        async with self._services.response_cache.serve(exchange, context, body, owner_id, work) as is_answered:
            if is_answered:
                return None
            return await self._compress_and_forward(exchange, context, raw, plain, body, owner_id)

    def _read_route(self, model: object) -> _ModelRoute:
        """Return the route of a request for a model, as its body names it. Raises ApiError 400 for an unsafe name."""
        return self._find_route(model) if isinstance(model, str) else self._create_route(str(model or ""))

    def _create_valid_route(self, name: str) -> _ModelRoute:
        model_names.validate_model(name)
        return self._create_route(name)

    def _create_route(self, name: str) -> _ModelRoute:
        model, providers = name[:200], self._services.providers
        return _ModelRoute(
            model, providers.get_litellm_name(model), providers.serves(model), latent_chat.is_clara_model(model)
        )

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
        prepared = PreparedRequest(plain, body)
        if self._memory.may_change(context.options):
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
        stored_reply = None
        if self._adapter is responses.ADAPTER:
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
        if not is_array(body.get("tools")):
            return None  # no tools are offered
        if context.options.retrieve not in ("auto", "tool") or context.options.bypass:
            return None
        vocabulary = get_token_counter(context.pricing_model)
        search = self._memory.create_search(context, owner_id)
        handler = ExpandHandler(self._services.originals, owner_id, vocabulary, search)
        return create_expand_tool(self._adapter, body, handler)

    async def _find_continued_reply(self, body: Json, owner_id: str) -> Json | None:
        """Return the record of the stored reply that a Responses request continues, if it has hidden calls."""
        reply_id = body.get("previous_response_id")
        if not isinstance(reply_id, str):
            return None
        return await find_stored_reply(self._services.originals, owner_id, reply_id)

    def _uses_litellm(self, context: RequestContext) -> bool:
        return self._adapter is chat.ADAPTER and self._services.providers.serves(context.model)

    def _reject_litellm_model(self, context: RequestContext) -> None:
        """Reject a model that only litellm serves on a path that does not use litellm.

        A name with a provider's prefix is rejected only for the makers' own upstreams: a gateway may serve it.
        """
        if self._adapter is chat.ADAPTER:
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
