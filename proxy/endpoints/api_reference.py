"""`/openapi.json` with the bodies of all endpoints, and `/docs`, Swagger UI without files from other hosts.

The chat endpoints bypass FastAPI, and the proxy's own read their bodies themselves, so FastAPI knows neither body.
"""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..clara.clara_routes import ClaraCompressRequest, EmbedRequest
from ..clara.job_routes import JobsRequest
from ..http import request_options
from ..protocols.api_errors import ApiError
from .compress_api import COMPRESS_PATH, CompressConfig
from .status_routes import RetrieveRequest

_BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/retrieve": RetrieveRequest,
    "/compress": ClaraCompressRequest,
    "/embed": EmbedRequest,
    "/clara/jobs": JobsRequest,
}
_TEXT_OR_PARTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": {"type": "string"}, "content": _TEXT_OR_PARTS},
        "required": ["role"],
    },
}
# The fields that the proxy reads. Every other field is forwarded unchanged.
_CHAT_ENDPOINTS: Mapping[str, tuple[str, dict[str, Any], list[str]]] = {
    "/v1/chat/completions": ("OpenAI Chat Completions", {"messages": _MESSAGES}, ["messages"]),
    "/v1/responses": (
        "OpenAI Responses",
        {"input": _TEXT_OR_PARTS, "instructions": {"type": "string"}, "previous_response_id": {"type": "string"}},
        ["input"],
    ),
    "/v1/messages": (
        "Anthropic Messages",
        {"messages": _MESSAGES, "system": _TEXT_OR_PARTS, "max_tokens": {"type": "integer", "minimum": 1}},
        ["messages", "max_tokens"],
    ),
    "/v1/messages/count_tokens": (
        "Anthropic's token counting",
        {"messages": _MESSAGES, "system": _TEXT_OR_PARTS},
        ["messages"],
    ),
}
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>clara-proxy: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<div id="api"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</html>
"""
_START_SCRIPT = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });\n'
_ASSET_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_SECURITY_HEADERS = {
    # Swagger UI sets style attributes and has its icons as data URLs.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def get_page() -> Response:
    """Return the page."""
    return Response(_PAGE, media_type="text/html", headers=_SECURITY_HEADERS)


@router.get("/docs/assets/{name}")
async def get_asset(name: str) -> Response:
    """Return a file of the page; those of Swagger UI come from litellm's wheel."""
    if name == "start.js":
        return Response(_START_SCRIPT, media_type="text/javascript", headers=_SECURITY_HEADERS)
    folder = _find_swagger_ui()
    if name not in _ASSET_TYPES or folder is None:
        raise ApiError(404, f"the page has no file {name!r}", code="not_found")
    return Response((folder / name).read_bytes(), media_type=_ASSET_TYPES[name], headers=_SECURITY_HEADERS)


@cache
def _find_swagger_ui() -> Path | None:
    spec = find_spec("litellm")
    places = None if spec is None else spec.submodule_search_locations
    folders = [Path(place) / "proxy" / "swagger" for place in places or ()]
    return next((folder for folder in folders if all((folder / name).is_file() for name in _ASSET_TYPES)), None)


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the application."""
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    models: list[type[BaseModel]] = [*_BODIES.values(), CompressConfig]
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas.update(definitions.get("$defs", {}))
    bodies = {path: references[model, "validation"] for path, model in _BODIES.items()}
    config = references[CompressConfig, "validation"]
    bodies[COMPRESS_PATH] = _describe_object({"messages": _MESSAGES, "config": config}, ["messages"])
    for path, body in bodies.items():
        document["paths"][path]["post"]["requestBody"] = _describe_body(body)
    headers = _describe_headers()
    for path, (title, properties, required) in _CHAT_ENDPOINTS.items():
        document["paths"][path] = {"post": _describe_chat_endpoint(path, title, properties, required, headers)}
    document["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]
    return document


_TAGS = {
    "chat": "Requests to the upstream, compressed.",
    "sidecar": "Compression for gateways that send requests themselves.",
    "clara": "CLaRa, the local model.",
    "operations": "Health, metrics and savings.",
}
_DESCRIPTION = (
    "An OpenAI-compatible proxy that compresses LLM requests. Chat endpoints take the bodies of the provider's own "
    "API: this document lists the fields that the proxy reads; all others are forwarded unchanged. Other `/v1` paths "
    "are passed through to the upstream."
)


def _describe_chat_endpoint(
    path: str, title: str, properties: dict[str, Any], required: list[str], headers: list[dict[str, Any]]
) -> dict[str, Any]:
    tools = {"type": "array", "items": {"type": "object"}}
    schema = _describe_object({**properties, "tools": tools, "stream": {"type": "boolean"}}, required)
    answer = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "tags": ["chat"],
        "summary": title,
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "parameters": headers,
        "requestBody": _describe_body(schema),
        "responses": {
            "200": {"description": "The answer of the upstream, or of CLaRa.", "content": answer},
            "default": {"description": "The error of the upstream, or of the proxy, in the format of this API."},
        },
    }


def _describe_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _describe_object(properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    """Return the schema of an object with a model, these properties, and any others."""
    return {
        "type": "object",
        "properties": {"model": {"type": "string"}, **properties},
        "required": ["model", *required],
        "additionalProperties": True,
    }


def _describe_headers() -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": effect}
        for name, effect in request_options.describe_headers().items()
    ]
