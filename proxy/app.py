"""Builds the application: chat endpoints on bare ASGI, all other endpoints on FastAPI, which is loaded when needed.

`uvicorn --factory clara_proxy.proxy.app:create_app` serves it.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import request_response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config import log_setup
from ..config.settings import Settings, load_settings
from .access.middleware import AccessMiddleware
from .endpoints import health, model_list
from .endpoints.completions import CompletionEndpoint
from .endpoints.passthrough import OWN_PATHS, PassthroughEndpoint
from .http import relay
from .http.exchange import Exchange
from .protocols import chat, messages, responses
from .protocols.protocol import ProtocolAdapter
from .runtime.services import Services, open_services

if TYPE_CHECKING:
    from .api import Api

ADAPTERS: Mapping[str, ProtocolAdapter] = {
    "/v1/chat/completions": chat.ADAPTER,
    "/v1/responses": responses.ADAPTER,
    "/v1/messages": messages.ADAPTER,
    "/v1/messages/count_tokens": messages.COUNT_TOKENS_ADAPTER,
}
# Clients whose base URL has no `/v1` send these paths, as the AI SDK does with the ANTHROPIC_BASE_URL of Claude Code.
ROOT_SEGMENTS = frozenset({"chat", "completions", "embeddings", "messages", "models", "responses"})
_HEALTH_ENDPOINTS = {path: request_response(handler) for path, handler in health.HANDLERS.items()}


class Application(Starlette):
    """The proxy as an ASGI application; its lifespan opens the services."""

    hot_routes: Mapping[tuple[str, str], ASGIApp] = {}
    access_middleware: ASGIApp | None = None

    def serve_with(self, services: Services) -> None:
        """Create the endpoints of the services, on the running event loop."""
        self.state.services = services
        self.hot_routes = {("POST", path): CompletionEndpoint(services, adapter) for path, adapter in ADAPTERS.items()}
        self._passthrough = PassthroughEndpoint(services)
        self._own_segments = {path.split("/")[2] for path in OWN_PATHS}
        if services.memory is not None:
            self._own_segments |= {"files", "vector_stores"}
        if model_list.list_own_models(services):
            self._own_segments.add("models")
        self._api: Api | None = None
        self._loading = asyncio.Lock()
        self.access_middleware = AccessMiddleware(
            self.route_request, services.settings, services.keyring, services.ledger, ADAPTERS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through the access middleware, once start-up has created it."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        path = scope.get("path", "")
        if not path.startswith("/v1/") and path[1:].partition("/")[0] in ROOT_SEGMENTS:
            scope["path"], scope["raw_path"] = f"/v1{path}", b"/v1" + (scope.get("raw_path") or path.encode())
        await (self.access_middleware or self.route_request)(scope, receive, send)

    async def route_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an admitted request to a chat endpoint, or else to another one."""
        endpoint = self.hot_routes.get((scope.get("method", ""), scope.get("path", "")))
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)

        async def track_start(message: Message) -> None:
            exchange.has_started = True
            await send(message)

        async with relay.answer_cancellation(exchange):
            scope["app"] = self
            await (await self._find_endpoint(scope))(scope, receive, track_start)

    async def _find_endpoint(self, scope: Scope) -> ASGIApp:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith("/v1/") and path.split("/")[2] not in self._own_segments:
            return self._passthrough
        if scope.get("method") == "GET" and path in _HEALTH_ENDPOINTS:
            return _HEALTH_ENDPOINTS[path]
        async with self._loading:
            if self._api is None:
                self._api = await asyncio.to_thread(_create_api, self.state.services)
        return self._api


def _create_api(services: Services) -> "Api":
    from .api import create_api  # noqa: PLC0415 - FastAPI, which not every proxy needs

    return create_api(services)


def create_app(custom_settings: Settings | None = None) -> Application:
    """Build the application for these settings; by default for those of the environment and the configuration file."""
    settings = custom_settings or load_settings()
    log_setup.configure_logging(settings.log_level, settings.log_format)

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncGenerator[None]:
        async with open_services(settings) as services:
            app.serve_with(services)
            if settings.cors_origins:  # other origins stay closed
                _allow_origins(app, settings.cors_origins)
            yield

    app = Application(lifespan=lifespan)
    app.state.settings = settings
    return app


def _allow_origins(app: Application, origins: Sequence[str]) -> None:
    from starlette.middleware.cors import CORSMiddleware  # noqa: PLC0415 - off by default

    assert app.access_middleware is not None
    app.access_middleware = CORSMiddleware(
        app.access_middleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["*"],
    )
