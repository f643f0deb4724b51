"""`GET /v1/models` and `GET /v1/models/NAME` with the proxy's own models, which follow the list of the upstream.

If the upstream refuses the client's key or its rate, the client gets this answer: many clients check keys this way. If
the upstream cannot be reached or answers with something else, the list has only the own models. Anthropic's clients get
Anthropic's list unchanged.
"""

import logging
from contextlib import suppress

import orjson

from ..access import authentication
from ..clara import latent_chat
from ..http import headers, relay, request_options
from ..http.exchange import JSON_HEADERS, CancelOnDisconnect, ClientDisconnected, Exchange, Receive, Scope, Send
from ..http.request_context import RequestContext
from ..protocols import chat
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, parse_object
from ..runtime.services import Services
from .passthrough import PassthroughEndpoint

_RELAYED_STATUSES = frozenset({401, 403, 429})
log = logging.getLogger(__name__)


def list_own_models(services: Services) -> list[str]:
    """Return the names of the local models and of the configured litellm models."""
    local = latent_chat.list_model_names(services.clara) if services.clara is not None else []
    return local + services.providers.list_model_names()


class ModelListEndpoint:
    """The list of models, or one of them, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._default_options = request_options.build_default_options(services.settings)
        self._passthrough = PassthroughEndpoint(services)
        common = {"object": "model", "created": 0, "owned_by": "clara-proxy"}
        self._own_models: list[Json] = [{"id": name, **common} for name in list_own_models(services)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        name = str(scope["path"]).removeprefix("/v1/models").removeprefix("/")
        own_model = next((model for model in self._own_models if model["id"] == name), None)
        if authentication.is_anthropic_request(exchange) or (name and own_model is None):
            await self._passthrough(scope, receive, send)
            return
        options = authentication.get_default_options(scope, self._default_options)
        context = RequestContext(str(scope["path"]), options, protocol="models", outcome="served")
        with suppress(ClientDisconnected), context.record_in_ledger(self._services.ledger):
            async with relay.AnswerErrors(exchange, context):
                context.options = request_options.parse_headers(exchange.headers, context.options)
                await exchange.read_body(0)
                if own_model is not None:
                    await _send_json(exchange, context, own_model)
                    return
                with CancelOnDisconnect(exchange):
                    await self._send_list(exchange, context)

    async def _send_list(self, exchange: Exchange, context: RequestContext) -> None:
        settings = self._services.settings
        url = headers.build_upstream_url(settings.upstream_base_url, exchange.scope)
        models: list[Json] = []
        try:
            upstream_headers = authentication.build_upstream_headers(
                exchange, settings, is_anthropic=False, excluded=frozenset({b"accept-encoding"})
            )
            async with self._services.chat_upstream.send("GET", url, upstream_headers, None) as reply:
                has_key = any(name.encode() in headers.CREDENTIALS for name, _ in upstream_headers)
                if has_key and reply.status in _RELAYED_STATUSES:
                    await relay.relay_reply(exchange, context, reply, chat.ADAPTER, strip_usage=False)
                    return
                upstream_models = (parse_object(await reply.read()) or {}).get("data")
                models = list(upstream_models) if is_array(upstream_models) else []
        except ApiError as error:
            log.info("cannot list the upstream's models: %s", error.message)
        await _send_json(exchange, context, {"object": "list", "data": models + self._own_models})


async def _send_json(exchange: Exchange, context: RequestContext, content: Json) -> None:
    context.status = 200
    await exchange.send_response(200, JSON_HEADERS + context.build_response_headers(), orjson.dumps(content))
