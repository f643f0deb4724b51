"""Forwards all other `/v1/*` paths byte by byte, with any method, and records them in the ledger.

A request for a local model is rejected instead.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

from ..access import authentication
from ..clara import latent_chat, local_clara
from ..expand.tool import find_stored_reply
from ..http import headers, relay, request_options
from ..http.body_budget import BodyReservation
from ..http.content_encoding import decode_body
from ..http.exchange import (
    CancelOnDisconnect,
    ClientDisconnected,
    Exchange,
    Receive,
    Scope,
    Send,
    join_chunks,
)
from ..http.request_context import RequestContext
from ..http.upstream_request import Body
from ..memory.requests import require_memory
from ..protocols import messages, offload, responses, responses_reply, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import parse_object
from ..protocols.request_json import parse_request
from ..runtime.services import Services

COMPACT_PATH = "/v1/responses/compact"
STORED_RESPONSES_PATH = "/v1/responses/"
_LOCAL_MODEL_HINTS = (local_clara.MODEL_NAME.encode(), rb"\u00")  # the name may be written with escapes
OWN_PATHS = frozenset({"/v1/compress", "/v1/retrieve", "/v1/savings"})


class PassthroughEndpoint:
    """Forwarding of paths that the proxy does not interpret, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._default_options = request_options.build_default_options(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        exchange = Exchange(scope, receive, send)
        options = authentication.get_default_options(scope, self._default_options)
        context = RequestContext(str(scope["path"]), options, protocol="passthrough")
        is_anthropic = authentication.is_anthropic_client(context.path, exchange.headers)
        adapter = messages.ADAPTER if is_anthropic else None
        with suppress(ClientDisconnected), context.record_in_ledger(self._services.ledger):
            async with relay.AnswerErrors(exchange, context, adapter, is_passthrough=True):
                context.options = request_options.parse_headers(exchange.headers, context.options)
                require_memory(self._services.memory, context.options)
                _reject_own_paths(exchange.method, context.path, is_anthropic=is_anthropic)
                with CancelOnDisconnect(exchange):
                    await self._forward(exchange, context)

    async def _forward(self, exchange: Exchange, context: RequestContext) -> None:
        settings = self._services.settings
        is_anthropic = authentication.is_anthropic_request(exchange)
        base_url = settings.anthropic_base_url if is_anthropic else settings.upstream_base_url
        upstream_headers = authentication.build_upstream_headers(exchange, settings, is_anthropic=is_anthropic)
        url = headers.build_upstream_url(base_url, exchange.scope)
        with self._services.bodies.reserve() as reservation:
            await self._forward_body(exchange, context, base_url, url, upstream_headers, reservation)

    async def _forward_body(
        self,
        exchange: Exchange,
        context: RequestContext,
        base_url: str,
        url: str,
        upstream_headers: tuple[tuple[str, str], ...],
        reservation: BodyReservation,
    ) -> None:
        body, length = await self._read_body(exchange, reservation)
        if context.path == COMPACT_PATH and isinstance(body, bytes):
            encoding = exchange.headers.get("content-encoding", "")
            plain = await decode_body(body, encoding, self._services.settings.max_body_bytes, reservation)
            context.model = str((parse_object(plain) or {}).get("model") or "")[:200] if plain else ""
            await self._forward_compaction(exchange, context, url, upstream_headers + length, body)
            return
        if context.path.startswith(STORED_RESPONSES_PATH):
            stored_reply = await self._find_stored_reply(exchange)
            if stored_reply.is_renamed:
                url = headers.build_upstream_url(base_url, stored_reply.build_upstream_scope(exchange.scope))
            if exchange.method == "GET" or stored_reply.is_renamed:
                request = exchange.method, url, upstream_headers + length, body
                await self._forward_stored_response(exchange, context, request, stored_reply)
                return
        async with self._services.raw_upstream.send(exchange.method, url, upstream_headers + length, body) as reply:
            context.status = reply.status
            context.outcome = "ok" if reply.status < 400 else "upstream_error"
            await exchange.start_response(
                reply.status, headers.filter_response_headers(reply.headers) + context.build_response_headers()
            )
            async for chunk in reply.chunks():
                await exchange.write_chunk(chunk)
            await exchange.end_response()

    async def _read_body(
        self, exchange: Exchange, reservation: BodyReservation
    ) -> tuple[Body, tuple[tuple[str, str], ...]]:
        """Return the request's body, or None without one, and its content-length header.

        A body that may be a JSON object is read whole, because it may name a local model. Any other body is an iterator
        that reads it as it arrives.
        """
        length = exchange.headers.get("content-length")
        if length is None and "transfer-encoding" not in exchange.headers:
            await exchange.read_body(0)
            return None, ()
        encoding = exchange.headers.get("content-encoding", "")
        chunks = exchange.stream_body()
        first = await anext(chunks, b"")
        chunks = _prepend_chunk(first, chunks)
        if first.strip() and not encoding and not first.lstrip().startswith(b"{"):
            return chunks, () if length is None else (("content-length", length),)
        limit = self._services.settings.max_body_bytes
        body = await join_chunks(chunks, limit, reservation)
        plain = await decode_body(body, encoding, limit, reservation) if body else None
        await offload.run_for(len(plain or b""), _reject_local_model, plain)
        return body, (("content-length", str(len(body))),)

    async def _forward_compaction(
        self,
        exchange: Exchange,
        context: RequestContext,
        url: str,
        upstream_headers: tuple[tuple[str, str], ...],
        body: bytes,
    ) -> None:
        """Forward a request for a compaction of a conversation, and read its usage: the provider bills it."""
        identity_headers = [pair for pair in upstream_headers if pair[0] != "accept-encoding"]
        identity_headers.append(("accept-encoding", "identity"))
        async with self._services.chat_upstream.send("POST", url, identity_headers, body) as reply:
            await relay.relay_reply(exchange, context, reply, responses.ADAPTER, strip_usage=False)

    async def _find_stored_reply(self, exchange: Exchange) -> "StoredReply":
        client_id = str(exchange.scope["path"]).removeprefix(STORED_RESPONSES_PATH).partition("/")[0]
        owner_id = authentication.get_owner_id(exchange.scope)
        record = await find_stored_reply(self._services.originals, owner_id, client_id) or {}
        return StoredReply(client_id, str(record.get("reply_id") or client_id))

    async def _forward_stored_response(
        self,
        exchange: Exchange,
        context: RequestContext,
        request: tuple[str, str, tuple[tuple[str, str], ...], Body],
        stored_reply: "StoredReply",
    ) -> None:
        """Return a response that the upstream stored as the client knows it: without the proxy's hidden tool calls."""
        method, url, upstream_headers, body = request
        identity_headers = [pair for pair in upstream_headers if pair[0] != "accept-encoding"]
        identity_headers.append(("accept-encoding", "identity"))
        async with self._services.chat_upstream.send(method, url, identity_headers, body) as reply:
            context.status = reply.status
            context.outcome = "ok" if reply.status < 400 else "upstream_error"
            response_headers = headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
            response_headers += context.build_response_headers()
            if reply.content_type != "text/event-stream":
                payload = await reply.read()
                content = await offload.run_for(
                    len(payload), responses_reply.filter_stored_response, payload, *stored_reply
                )
                await exchange.send_response(reply.status, response_headers, content)
                return
            await exchange.start_response(reply.status, response_headers)
            reply_filter, events = responses_reply.ResponsesReplyFilter(stored_reply.client_id), sse.EventSplitter()
            async for chunk in reply.chunks():
                async for piece in sse.iter_pieces(chunk):
                    if visible := b"".join(map(reply_filter.filter_event, events.feed(piece))):
                        await exchange.write_chunk(visible)
            rest = b"".join(map(reply_filter.filter_event, events.flush()))
            end = reply_filter.end_round()
            await exchange.end_response(rest + (reply_filter.finish_stream() if reply_filter.awaits_expansion else end))


class StoredReply(NamedTuple):
    """The id of a stored response at the client, and the upstream's, which differs if the reply had hidden rounds."""

    client_id: str
    upstream_id: str

    @property
    def is_renamed(self) -> bool:
        """Return True if the client knows the response by another id than the upstream."""
        return self.client_id != self.upstream_id

    def build_upstream_scope(self, scope: Scope) -> Scope:
        """Return the scope of a request with the upstream's id in its path."""
        rest = str(scope["path"]).removeprefix(STORED_RESPONSES_PATH + self.client_id)
        return {**scope, "raw_path": quote(f"{STORED_RESPONSES_PATH}{self.upstream_id}{rest}").encode()}


def _reject_own_paths(method: str, path: str, *, is_anthropic: bool) -> None:
    """Reject requests that must not go upstream: the proxy's own paths, a doubled `/v1`, and TRACE.

    TRACE is rejected because a server echoes the request's headers, keys included.
    """
    if path.startswith("/v1/v1/"):
        variable = "remove /v1 from ANTHROPIC_BASE_URL" if is_anthropic else "end OPENAI_BASE_URL in one /v1"
        # Claude Code shows no text of a 404.
        raise ApiError(400 if is_anthropic else 404, f"there is no endpoint {path}; {variable}", code="not_found")
    if method == "TRACE" or path in OWN_PATHS or path.startswith("/v1/retrieve/"):
        raise ApiError(405, f"the method {method} is not allowed for {path}", code="method_not_allowed")


def _reject_local_model(body: bytes | None) -> None:
    """Reject a request for a local model: it must not leave the machine (invariant: private)."""
    if body is None or not any(hint in body for hint in _LOCAL_MODEL_HINTS):  # parsing a large body takes long
        return
    model = str((parse_request(body) or {}).get("model"))
    if latent_chat.is_clara_model(model):
        raise latent_chat.build_wrong_path_error(model)


async def _prepend_chunk(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
