"""Forwards all other `/v1/*` paths byte by byte, with any method, and records them in the ledger."""

from collections.abc import AsyncIterator
from contextlib import suppress

from ..access import authentication
from ..http import headers, relay, request_options
from ..http.exchange import CancelOnDisconnect, ClientDisconnected, Exchange, Receive, Scope, Send
from ..http.request_context import RequestContext
from ..protocols import messages, responses_reply, sse
from ..protocols.api_errors import ApiError
from ..runtime.services import Services

STORED_RESPONSES_PATH = "/v1/responses/"
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
        adapter = messages.ADAPTER if authentication.is_anthropic_request(exchange) else None
        with suppress(ClientDisconnected), context.record_in_ledger(self._services.ledger):
            async with relay.answer_errors(exchange, context, adapter, is_passthrough=True):
                context.options = request_options.parse_headers(exchange.headers, context.options)
                _reject_own_paths(exchange.method, context.path)
                with CancelOnDisconnect(exchange):
                    await self._forward(exchange, context)

    async def _forward(self, exchange: Exchange, context: RequestContext) -> None:
        settings = self._services.settings
        is_anthropic = authentication.is_anthropic_request(exchange)
        base_url = settings.anthropic_base_url if is_anthropic else settings.upstream_base_url
        upstream_headers = authentication.build_upstream_headers(exchange, settings, is_anthropic=is_anthropic)
        url = headers.build_upstream_url(base_url, exchange.scope)
        body, length = await _stream_body(exchange)
        if exchange.method == "GET" and context.path.startswith(STORED_RESPONSES_PATH):
            await self._forward_stored_response(exchange, context, url, upstream_headers)
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

    async def _forward_stored_response(
        self, exchange: Exchange, context: RequestContext, url: str, upstream_headers: list[tuple[str, str]]
    ) -> None:
        """Return a response that the upstream stored, without the proxy's hidden tool calls in it."""
        identity_headers = [pair for pair in upstream_headers if pair[0] != "accept-encoding"]
        identity_headers.append(("accept-encoding", "identity"))
        async with self._services.chat_upstream.send("GET", url, identity_headers, None) as reply:
            context.status = reply.status
            context.outcome = "ok" if reply.status < 400 else "upstream_error"
            response_headers = headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
            response_headers += context.build_response_headers()
            if reply.content_type != "text/event-stream":
                content = responses_reply.filter_stored_response(await reply.read())
                await exchange.send_response(reply.status, response_headers, content)
                return
            await exchange.start_response(reply.status, response_headers)
            reply_filter, events = responses_reply.ResponsesReplyFilter(), sse.EventSplitter()
            async for chunk in reply.chunks():
                if visible := b"".join(map(reply_filter.filter_event, events.feed(chunk))):
                    await exchange.write_chunk(visible)
            rest = b"".join(map(reply_filter.filter_event, events.flush()))
            end = reply_filter.end_round()
            await exchange.end_response(rest + (reply_filter.finish_stream() if reply_filter.awaits_expansion else end))


def _reject_own_paths(method: str, path: str) -> None:
    """Reject requests that must not go upstream: the proxy's own paths, a doubled `/v1`, and TRACE.

    TRACE is rejected because a server echoes the request's headers, keys included.
    """
    if path.startswith("/v1/v1/"):
        message = f"there is no endpoint {path}; OPENAI_BASE_URL must end in one /v1, ANTHROPIC_BASE_URL in none"
        raise ApiError(404, message, code="not_found")
    if method == "TRACE" or path in OWN_PATHS or path.startswith("/v1/retrieve/"):
        raise ApiError(405, f"the method {method} is not allowed for {path}", code="method_not_allowed")


async def _stream_body(exchange: Exchange) -> tuple[AsyncIterator[bytes] | None, list[tuple[str, str]]]:
    """Return an iterator over the request's body, or None without one, and its content-length header."""
    length = exchange.headers.get("content-length")
    if length is None and "transfer-encoding" not in exchange.headers:
        await exchange.read_body(0)
        return None, []
    return exchange.stream_body(), [] if length is None else [("content-length", length)]
