"""`GET /v1/models` where there are models of our own: the upstream's list, and ours after it.

An upstream that cannot be reached or answers with something else costs only its own part of the list. Anthropic's
clients are given Anthropic's list as it is.
"""

import logging
from contextlib import suppress

import orjson

from ..access import authentication
from ..clara import latent_chat
from ..http import headers, relay, request_options
from ..http.exchange import JSON_HEADERS, CancelOnDisconnect, ClientDisconnected, Exchange, Receive, Scope, Send
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, parse_object
from ..runtime.services import Services
from .passthrough import PassthroughEndpoint

log = logging.getLogger(__name__)


def list_own_models(services: Services) -> list[str]:
    """List the names that are served here or through litellm by configuration."""
    local = latent_chat.list_model_names(services.settings.subfolder) if services.clara is not None else []
    return local + services.providers.list_model_names()


class ModelListEndpoint:
    """The list of models, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._defaults = request_options.build_default_options(services.settings)
        self._anthropic_passthrough = PassthroughEndpoint(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        if authentication.is_anthropic_request(exchange):
            await self._anthropic_passthrough(scope, receive, send)
            return
        visit = RequestContext(
            str(scope["path"]),
            authentication.get_default_options(scope, self._defaults),
            protocol="models",
            outcome="served",
        )
        with suppress(ClientDisconnected), visit.record_in_ledger(self._services.ledger):
            async with relay.answer_errors(exchange, visit):
                visit.options = request_options.parse_headers(exchange.headers, visit.options)
                await exchange.read_body(0)
                with CancelOnDisconnect(exchange):
                    await self._respond(exchange, visit)

    async def _respond(self, exchange: Exchange, visit: RequestContext) -> None:
        common = {"object": "model", "created": 0, "owned_by": "clara-proxy"}
        listed = [
            *await self._fetch_upstream_models(exchange),
            *({"id": name, **common} for name in list_own_models(self._services)),
        ]
        visit.status = 200
        content = orjson.dumps({"object": "list", "data": listed})
        await exchange.send_response(200, JSON_HEADERS + visit.build_response_headers(), content)

    async def _fetch_upstream_models(self, exchange: Exchange) -> list[Json]:
        settings = self._services.settings
        url = headers.build_upstream_url(settings.upstream_base_url, exchange.scope)
        try:
            upward = authentication.build_upstream_headers(
                exchange, settings, is_anthropic=False, excluded=frozenset({b"accept-encoding"})
            )
            async with self._services.chat_upstream.send("GET", url, upward, None) as reply:
                found = (parse_object(await reply.read()) or {}).get("data")
        except ApiError as error:
            log.info("the upstream's models are not listed: %s", error.message)
            return []
        return found if is_array(found) else []
