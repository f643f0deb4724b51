"""Every other `/v1/*` path: forwarded and answered byte by byte, whatever the method, and written in the ledger."""

from collections.abc import AsyncIterator

from . import headers, relay, steering
from .exchange import ClientGone, Exchange, Receive, Scope, Send, UnlessGone
from .services import Services
from .visit import Visit
from .wires import messages
from .wires.errors import ApiError

ANTHROPIC = "/v1/messages"
OURS = frozenset({"/v1/compress", "/v1/retrieve", "/v1/savings"})


class Passthrough:
    """Whatever the proxy has no part in, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._defaults = steering.defaults(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        exchange = Exchange(scope, receive, send)
        visit = Visit(str(scope["path"]), self._defaults, protocol="passthrough")
        try:
            visit.steering = steering.read(exchange.headers, self._defaults)
            _refuse_what_is_ours(exchange.method, visit.path)
            with UnlessGone(exchange):
                await self._forward(exchange, visit)
        except ClientGone:
            visit.outcome = "cancelled"
        except ApiError as error:
            if exchange.left:  # while it was sending: what broke off then is our own request
                visit.outcome = "cancelled"
                return
            if exchange.started:  # nothing can be said any more but that the body is not whole
                visit.outcome = "upstream_error"
                raise
            await relay.refuse(exchange, visit, error, messages.WIRE if _is_anthropics(visit) else None)
        except BaseException:
            visit.outcome = "failed"
            raise
        finally:
            self._services.ledger.write(visit.row())

    async def _forward(self, exchange: Exchange, visit: Visit) -> None:
        settings = self._services.settings
        anthropic = _is_anthropics(visit)
        base = settings.anthropic_base_url if anthropic else settings.upstream_base_url
        upward = headers.upward(exchange.raw_headers, key=None if anthropic else settings.upstream_api_key)
        url = headers.target(base, exchange.scope)
        body, length = await _body(exchange)
        async with self._services.raw_upstream.send(exchange.method, url, upward + length, body) as reply:
            visit.status = reply.status
            visit.outcome = "ok" if reply.status < 400 else "upstream_error"
            await exchange.start(reply.status, headers.downward(reply.headers) + visit.response_headers())
            async for chunk in reply.chunks():
                await exchange.write(chunk)
            await exchange.end()


def _is_anthropics(visit: Visit) -> bool:
    return f"{visit.path}/".startswith(f"{ANTHROPIC}/")


def _refuse_what_is_ours(method: str, path: str) -> None:
    """Refuse what an upstream has no part in: our own paths by another method, and TRACE, which echoes keys."""
    if method == "TRACE" or path in OURS or path.startswith("/v1/retrieve/"):
        raise ApiError(405, f"{method} is not for {path}", code="method_not_allowed")


async def _body(exchange: Exchange) -> tuple[AsyncIterator[bytes] | None, list[tuple[str, str]]]:
    """Return the request's body as it arrives, or None, and the header that says how long it is."""
    length = exchange.headers.get("content-length")
    if length is None and "transfer-encoding" not in exchange.headers:
        await exchange.body(0)
        return None, []
    return exchange.pieces(), [] if length is None else [("content-length", length)]
