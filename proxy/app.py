"""Builds the application: chat endpoints on bare ASGI, all other endpoints on FastAPI.

`uvicorn --factory clara_proxy.proxy.app:create_app` serves it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from ..config import log_setup
from ..config.settings import Settings, load_settings
from .access import authentication
from .access.middleware import AccessMiddleware
from .clara import clara_routes, job_routes
from .dashboard import dashboard_routes
from .dashboard.overview import Overview
from .endpoints import (
    api_reference,
    compress_api,
    memory_files,
    model_list,
    status_routes,
    vector_store_files,
    vector_stores,
)
from .endpoints.completions import CompletionEndpoint
from .endpoints.model_list import ModelListEndpoint
from .endpoints.passthrough import PassthroughEndpoint
from .http import relay
from .http.exchange import ClientDisconnected, Exchange, Message, Receive, Scope, Send
from .protocols import chat, messages, responses
from .protocols.api_errors import ApiError
from .protocols.protocol import ProtocolAdapter
from .runtime.services import open_services

_HTTP_ERROR_CODES = {404: "not_found", 405: "method_not_allowed"}

ADAPTERS: Mapping[str, ProtocolAdapter] = {
    "/v1/chat/completions": chat.ADAPTER,
    "/v1/responses": responses.ADAPTER,
    "/v1/messages": messages.ADAPTER,
    "/v1/messages/count_tokens": messages.COUNT_TOKENS_ADAPTER,
}
# Clients whose base URL has no `/v1` send these paths, as the AI SDK does with the ANTHROPIC_BASE_URL of Claude Code.
ROOT_SEGMENTS = frozenset({"chat", "completions", "embeddings", "messages", "models", "responses"})


class Application(FastAPI):
    """FastAPI with a shortcut for the chat endpoints: its routing costs more than the proxy's own work."""

    hot_routes: Mapping[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {}
    access_middleware: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through the access middleware, once start-up has created it."""
        path = scope.get("path", "")
        if not path.startswith("/v1/") and path[1:].partition("/")[0] in ROOT_SEGMENTS:
            scope["path"], scope["raw_path"] = f"/v1{path}", b"/v1" + (scope.get("raw_path") or path.encode())
        await (self.access_middleware or self.route_request)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, built once."""
        if self.openapi_schema is None:
            self.openapi_schema = api_reference.build_openapi(self)
        return self.openapi_schema

    async def route_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an admitted request to a chat endpoint, or else to FastAPI's routes."""
        endpoint = self.hot_routes.get((scope.get("method", ""), scope.get("path", "")))
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)

        async def track_start(message: Message) -> None:
            exchange.has_started = True
            await send(message)

        async with relay.answer_cancellation(exchange):
            await super().__call__(scope, receive, track_start)


def create_app(custom_settings: Settings | None = None) -> FastAPI:
    """Build the application for these settings; by default for those of the environment and the configuration file."""
    settings = custom_settings or load_settings()
    log_setup.configure_logging(settings.log_level, settings.log_format)

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncGenerator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            app.state.overview = Overview(services)
            # These need the services, and the services need the running event loop.
            app.hot_routes = {
                ("POST", path): CompletionEndpoint(services, adapter) for path, adapter in ADAPTERS.items()
            }
            if services.memory is not None:
                for router in (memory_files.router, vector_stores.router, vector_store_files.router):
                    app.include_router(router)
            if model_list.list_own_models(services):
                model_endpoint = ModelListEndpoint(services)
                for path in ("/v1/models", "/v1/models/{name:path}"):
                    app.router.routes.append(Route(path, model_endpoint, methods=["GET"]))
            app.router.routes.append(Route("/v1/{path:path}", PassthroughEndpoint(services)))
            app.access_middleware = AccessMiddleware(
                app.route_request, services.settings, services.keyring, services.ledger, ADAPTERS
            )
            if settings.cors_origins:  # other origins stay closed
                app.access_middleware = CORSMiddleware(
                    app.access_middleware,
                    allow_origins=settings.cors_origins,
                    allow_methods=["GET", "POST", "DELETE"],
                    allow_headers=["*"],
                    expose_headers=["*"],
                )
            yield

    # FastAPI's own `/docs` and `/redoc` load scripts from other hosts into the dashboard's origin, so they are off.
    app = Application(
        title="clara-proxy", version=version("clara-proxy"), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.settings = settings
    app.router.routes.append(Route("/", _redirect_to_dashboard, methods=["GET"]))
    app.include_router(status_routes.router)
    app.include_router(clara_routes.router)
    app.include_router(job_routes.router)
    app.include_router(compress_api.router)
    app.include_router(dashboard_routes.router)
    app.include_router(api_reference.router)
    app.add_exception_handler(ApiError, _handle_api_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(ClientDisconnected, _handle_client_disconnect)
    return app


async def _redirect_to_dashboard(request: Request) -> Response:
    """Redirect browsers to the dashboard; other clients get a 404 with the base URL of the API."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/dashboard")
    raise HTTPException(404)


async def _handle_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.encode(), error.status, error.headers, media_type="application/json")


async def _handle_client_disconnect(_: Request, _error: Exception) -> Response:
    return Response(status_code=400)


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, message = error.status_code, str(error.detail)
    is_anthropic = authentication.is_anthropic_client(request.url.path, request.headers)
    if status == 404:
        base_url = str(request.base_url)
        variable = (
            f"ANTHROPIC_BASE_URL to {base_url.rstrip('/')}" if is_anthropic else f"OPENAI_BASE_URL to {base_url}v1"
        )
        message = f"there is no endpoint {request.url.path}; set {variable}"
        status = 400 if is_anthropic else 404  # Claude Code shows no text of a 404
    api_error = ApiError(status, message, code=_HTTP_ERROR_CODES.get(error.status_code))
    body = messages.ADAPTER.encode_error(api_error) if is_anthropic else api_error.encode()
    return Response(body, status, media_type="application/json")
