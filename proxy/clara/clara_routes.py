"""CLaRa's own endpoints: `/compress`, `/embed`, `/unload`, `/status` and `/health`, as on other CLaRa servers.

Errors of the model become OpenAI's error JSON. Each request to the model leaves one row in the ledger.
"""

import asyncio
import hmac
import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from ...compression.clara.async_engine import LocalClara
from ...compression.clara.exceptions import CheckpointError, ClaraError, DeadlineError, QueueFullError
from ...compression.clara.jobs import ModelCost
from ...compression.compressor import ModelUsage
from ..access import authentication
from ..http import json_body, request_options
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..runtime.services import Services, get_services
from ..stores.errors import ThrottledLogger

MAX_TEXTS = 2048  # of one request, as in OpenAI's embeddings
_FOLDERS = re.compile(r"""(?<![\w:/.])~?/(?:[^/\n:'"]+/)*""")  # of a path on this machine, up to the name of the file
_throttled_log = ThrottledLogger(logging.getLogger(__name__))
NonEmptyText = Annotated[str, Field(min_length=1)]


class ClaraCompressRequest(BaseModel):
    """Texts, and a question about them."""

    memories: list[NonEmptyText] = Field(min_length=1, max_length=MAX_TEXTS)
    query: NonEmptyText
    max_new_tokens: int = Field(default=128, ge=1, le=4096)


class EmbedRequest(BaseModel):
    """Texts to embed."""

    texts: list[NonEmptyText] = Field(min_length=1, max_length=MAX_TEXTS)


def require_clara_key(request: Request) -> None:
    """Require `CLARA_API_KEY`, if it is set, or one of the proxy's own keys.

    Raises:
        ApiError: 401 if the request has neither.
    """
    if authentication.get_caller(request.scope) is not None:
        return
    api_key = get_services(request).settings.api_key
    presented_key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if api_key is not None and not hmac.compare_digest(presented_key.encode(), api_key.encode()):
        message = "this endpoint needs the key of CLARA_API_KEY; send it as Authorization: Bearer KEY"
        raise ApiError(401, message, code="invalid_api_key")


router = APIRouter(tags=["clara"])
protected_router = APIRouter(dependencies=[Depends(require_clara_key)])


@protected_router.post("/compress")
async def compress(request: Request, response: Response) -> dict[str, Any]:
    """Compress memories into memory tokens, and answer a question from them."""
    services = get_services(request)
    with _record_request(request, services) as context:
        body = await json_body.read_json(
            request, services.settings.max_body_bytes, services.bodies, ClaraCompressRequest
        )
        await authentication.reserve_local(request.scope, context, _measure_bytes(body.memories), body.max_new_tokens)
        with json_body.cancel_on_disconnect(request):
            answer = await get_local_clara(services).answer(
                body.memories, body.query, body.max_new_tokens, services.settings.clara_timeout
            )
        context.model_cost = answer.usage
        context.received_tokens = answer.text_tokens
        context.saved_tokens = answer.text_tokens - answer.memory_tokens
        context.compressor_seconds = perf_counter() - context.start_time
    response.headers["x-clara-engine"] = context.engine
    return {
        "success": True,
        "answer": answer.text,
        "original_tokens": answer.text_tokens,
        "compressed_tokens": answer.memory_tokens,
        "compression_ratio": round(answer.text_tokens / max(1, answer.memory_tokens), 2),
        "latency_ms": round(1000 * context.compressor_seconds, 1),
        "memories_left_out": answer.left_out,
    }


@protected_router.post("/embed")
async def embed(request: Request) -> Response:
    """Embed texts: the vector of a text is the mean of its memory vectors."""
    services = get_services(request)
    cost = ModelCost()
    with _record_request(request, services) as context:
        body = await json_body.read_json(request, services.settings.max_body_bytes, services.bodies, EmbedRequest)
        await authentication.reserve_local(request.scope, context, _measure_bytes(body.texts))
        with json_body.cancel_on_disconnect(request):
            embeddings = await get_local_clara(services).embed(body.texts, services.settings.clara_timeout, cost)
            answer = {"embeddings": embeddings, "dimensions": len(embeddings[0])}
            content = await asyncio.to_thread(orjson.dumps, answer)
        context.model_cost = ModelUsage(cost.tokens, cost.gpu_seconds)
    return Response(content, media_type="application/json", headers={"x-clara-engine": context.engine})


@protected_router.post("/unload")
async def unload(request: Request) -> dict[str, bool]:
    """Unload the model; the next request loads it again."""
    get_local_clara(get_services(request)).unload()
    return {"success": True}


@protected_router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """Return the model's name, load state and counters."""
    clara = get_services(request).clara
    return {"model": None, "loaded": False} if clara is None else clara.status()


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Return the health of the server, without loading the model."""
    clara = get_services(request).clara
    return {"status": "ok", "model_loaded": clara is not None and clara.status()["loaded"]}


router.include_router(protected_router)


def _measure_bytes(texts: list[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def get_local_clara(services: Services) -> LocalClara:
    """Return the local CLaRa model.

    Raises:
        ApiError: 503 without a model; the message says how to get one.
    """
    if services.clara is None:
        message = "there is no CLaRa model; install the extra [clara], or set CLARA_MODEL to a checkpoint"
        raise ApiError(503, message, code="model_unavailable")
    return services.clara


@contextmanager
def map_clara_errors() -> Generator[None]:
    """Map CLaRa's exceptions to API errors: 429 for a full queue, 503 for a timeout or a failed load, else 400."""
    try:
        yield
    except QueueFullError as error:
        raise ApiError(429, str(error), code="overloaded", headers={"retry-after": "1"}) from error
    except DeadlineError as error:
        raise ApiError(503, str(error), code="deadline", headers={"retry-after": "1"}) from error
    except (CheckpointError, ImportError) as error:
        _throttled_log.warn(f"the CLaRa model cannot be loaded: {error}")
        message = f"the CLaRa model cannot be loaded: {_FOLDERS.sub('', str(error))}"  # the log names the folders
        raise ApiError(503, message, code="model_unavailable") from error
    except ClaraError as error:
        raise ApiError(400, str(error), code="clara_error") from error


@contextmanager
def _record_request(request: Request, services: Services) -> Generator[RequestContext]:
    """Write one ledger row for a request to the local model, even if the request fails."""
    settings, clara = services.settings, services.clara
    options = authentication.get_default_options(request.scope, request_options.build_default_options(settings))
    engine = clara.name if clara is not None else "none"
    context = RequestContext(
        request.url.path, options, protocol="clara", mode="latent", engine=engine, outcome="served"
    )
    context.model = clara.config.model if clara is not None else ""
    with context.record_in_ledger(services.ledger), map_clara_errors():
        context.options = request_options.parse_headers(request.headers, options)
        yield context
        context.status = 200
