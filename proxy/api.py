"""The endpoints on FastAPI: everything besides chat, forwarded paths, health and metrics.

`app.Application` imports this module with the first request for one of them: FastAPI and its models take 10 MB and a
tenth of a second.
"""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from .access import authentication
from .clara import clara_routes, job_routes
from .dashboard import dashboard_routes
from .dashboard.overview import Overview
from .endpoints import api_reference, compress_api, model_list, status_routes
from .endpoints.model_list import ModelListEndpoint
from .endpoints.passthrough import PassthroughEndpoint
from .http.exchange import ClientDisconnected
from .protocols import messages
from .protocols.api_errors import ApiError
from .runtime.services import Services

_HTTP_ERROR_CODES = {404: "not_found", 405: "method_not_allowed"}


class Api(FastAPI):
    """FastAPI with the proxy's own OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, built once."""
        if self.openapi_schema is None:
            self.openapi_schema = api_reference.build_openapi(self)
        return self.openapi_schema


def create_api(services: Services) -> Api:
    """Build the application with all routes, those of forwarded paths included. Takes some 50 ms."""
    # FastAPI's own `/docs` and `/redoc` load scripts from other hosts into the dashboard's origin, so they are off.
    api = Api(title="clara-proxy", version=version("clara-proxy"), docs_url=None, redoc_url=None)
    api.state.services = services
    api.state.overview = Overview(services)
    api.router.routes.append(Route("/", _redirect_to_dashboard, methods=["GET"]))
    for module in (status_routes, clara_routes, job_routes, compress_api, dashboard_routes, api_reference):
        api.include_router(module.router)
    if services.memory is not None:
        from .endpoints import memory_files, vector_store_files, vector_stores  # noqa: PLC0415 - off by default

        for router in (memory_files.router, vector_stores.router, vector_store_files.router):
            api.include_router(router)
    if model_list.list_own_models(services):
        model_endpoint = ModelListEndpoint(services)
        for path in ("/v1/models", "/v1/models/{name:path}"):
            api.router.routes.append(Route(path, model_endpoint, methods=["GET"]))
    api.router.routes.append(Route("/v1/{path:path}", PassthroughEndpoint(services)))
    api.add_exception_handler(ApiError, _handle_api_error)
    api.add_exception_handler(HTTPException, _handle_http_error)
    api.add_exception_handler(ClientDisconnected, _handle_client_disconnect)
    return api


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
