"""Every other `/v1/*` path: forwarded and answered byte by byte, whatever the method, and written in the ledger."""

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
    """Whatever the proxy has no part in, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._defaults = request_options.build_default_options(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        exchange = Exchange(scope, receive, send)
        visit = RequestContext(
            str(scope["path"]), authentication.get_default_options(scope, self._defaults), protocol="passthrough"
        )
        wire = messages.ADAPTER if authentication.is_anthropic_request(exchange) else None
        with suppress(ClientDisconnected), visit.record_in_ledger(self._services.ledger):
            async with relay.answer_errors(exchange, visit, wire, is_passthrough=True):
                visit.options = request_options.parse_headers(exchange.headers, visit.options)
                _reject_own_paths(exchange.method, visit.path)
                with CancelOnDisconnect(exchange):
                    await self._forward(exchange, visit)

    async def _forward(self, exchange: Exchange, visit: RequestContext) -> None:
        settings = self._services.settings
        anthropic = authentication.is_anthropic_request(exchange)
        base = settings.anthropic_base_url if anthropic else settings.upstream_base_url
        upward = authentication.build_upstream_headers(exchange, settings, is_anthropic=anthropic)
        url = headers.build_upstream_url(base, exchange.scope)
        body, length = await _stream_body(exchange)
        if exchange.method == "GET" and visit.path.startswith(STORED_RESPONSES_PATH):
            await self._forward_stored_response(exchange, visit, url, upward)
            return
        async with self._services.raw_upstream.send(exchange.method, url, upward + length, body) as reply:
            visit.status = reply.status
            visit.outcome = "ok" if reply.status < 400 else "upstream_error"
            await exchange.start_response(
                reply.status, headers.filter_response_headers(reply.headers) + visit.build_response_headers()
            )
            async for chunk in reply.chunks():
                await exchange.write_chunk(chunk)
            await exchange.end_response()

    async def _forward_stored_response(
        self, exchange: Exchange, visit: RequestContext, url: str, upward: list[tuple[str, str]]
    ) -> None:
        """Bring back what the upstream keeps of a response, without what only the proxy had asked for in it."""
        plain = [
            *((name, value) for name, value in upward if name != "accept-encoding"),
            ("accept-encoding", "identity"),
        ]
        async with self._services.chat_upstream.send("GET", url, plain, None) as reply:
            visit.status = reply.status
            visit.outcome = "ok" if reply.status < 400 else "upstream_error"
            kept = (
                headers.filter_response_headers(reply.headers, excluded=headers.BODY_HEADERS)
                + visit.build_response_headers()
            )
            if reply.content_type != "text/event-stream":
                await exchange.send_response(
                    reply.status, kept, responses_reply.filter_stored_response(await reply.read())
                )
                return
            await exchange.start_response(reply.status, kept)
            listener, events = responses_reply.ResponsesReplyFilter(), sse.EventSplitter()
            async for chunk in reply.chunks():
                if passed := b"".join(map(listener.filter_event, events.feed(chunk))):
                    await exchange.write_chunk(passed)
            left = b"".join(map(listener.filter_event, events.flush()))
            await exchange.end_response(left + listener.finish_stream() if listener.awaits_expansion else left)


def _reject_own_paths(method: str, path: str) -> None:
    """Refuse what an upstream has no part in: our own paths by another method, TRACE, which echoes keys, and slips."""
    if path.startswith("/v1/v1/"):
        message = f"there is nothing at {path}: OPENAI_BASE_URL ends in /v1 once, ANTHROPIC_BASE_URL does not"
        raise ApiError(404, message, code="not_found")
    if method == "TRACE" or path in OWN_PATHS or path.startswith("/v1/retrieve/"):
        raise ApiError(405, f"{method} is not for {path}", code="method_not_allowed")


async def _stream_body(exchange: Exchange) -> tuple[AsyncIterator[bytes] | None, list[tuple[str, str]]]:
    """Return the request's body as it arrives, or None, and the header that says how long it is."""
    length = exchange.headers.get("content-length")
    if length is None and "transfer-encoding" not in exchange.headers:
        await exchange.read_body(0)
        return None, []
    return exchange.stream_body(), [] if length is None else [("content-length", length)]
