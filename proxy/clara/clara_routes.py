"""CLaRa's own endpoints: `/compress`, `/embed`, `/unload`, `/status` and `/health`, as on other CLaRa servers.

`/compress` and `/embed` take a `compression_rate` of the model, and a `keep_alive` for the time after. Errors of the
model become OpenAI's error JSON. Each request to the model leaves one row in the ledger.
"""

import asyncio
import hmac
import math
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter, time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from ...compression import embeddings
from ...compression.clara import extracted_answers
from ...compression.clara.async_engine import ClaraBackend
from ...compression.compressor import ModelUsage
from ...compression.models.cost import ModelCost
from ...compression.models.model_compression import NOT_IN_MEMORY
from ...compression.models.worker import WorkerStatus
from ...compression.tokens import get_token_counter
from ..access import authentication
from ..http import json_body, request_options
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..runtime.services import Services, get_services
from .local_clara import MODEL_NAME, get_local_clara, map_clara_errors, parse_rate

MAX_TEXTS = 2048  # of one request, as in OpenAI's embeddings
NonEmptyText = Annotated[str, Field(min_length=1)]


SMALL_MODEL = "static"  # the static embeddings of the package


class ModelChoice(BaseModel):
    """Options of a request to the model; `keep_alive` is in seconds, 0 unloads at once and -1 never."""

    compression_rate: int | None = Field(default=None, ge=1)
    keep_alive: float | None = Field(default=None, ge=-1)


class ClaraCompressRequest(ModelChoice):
    """Texts, and a question about them."""

    memories: list[NonEmptyText] = Field(min_length=1, max_length=MAX_TEXTS)
    query: NonEmptyText
    max_new_tokens: int = Field(default=128, ge=1, le=4096)


class EmbedRequest(ModelChoice):
    """Texts to embed with a model: CLaRa, or the package's static embeddings.

    `max_length` is in tokens, or words for static embeddings; the rest of a longer text is not read. `dimensions` keeps
    the first numbers of a vector.
    """

    texts: list[NonEmptyText] = Field(min_length=1, max_length=MAX_TEXTS)
    model: str = "clara"
    max_length: int | None = Field(default=None, ge=1)
    dimensions: int | None = Field(default=None, ge=1)


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
    with record_request(request, services) as context:
        body = await json_body.read_json(
            request, services.settings.max_body_bytes, services.bodies, ClaraCompressRequest
        )
        clara = select_clara(services, body)
        await authentication.reserve_local(request.scope, context, measure_bytes(body.memories), body.max_new_tokens)
        with json_body.cancel_on_disconnect(request):
            request_values = (body.memories, body.query, body.max_new_tokens)
            answer = await clara.answer(*request_values, services.settings.clara_timeout)
            if answer.not_in_memory:
                context.engine, context.skip_counts = "extract", {NOT_IN_MEMORY: 1}
                counter = get_token_counter(context.pricing_model)
                answer = await extracted_answers.replace_missing(answer, *request_values, counter)
        context.model_cost = answer.usage
        context.received_tokens = answer.document_tokens
        context.saved_tokens = answer.document_tokens - answer.memory_tokens
        context.compressor_seconds = perf_counter() - context.start_time
    response.headers["x-clara-engine"] = context.engine
    return {
        "success": True,
        "answer": answer.text,
        "original_tokens": answer.document_tokens,
        "compressed_tokens": answer.memory_tokens,
        "compression_ratio": round(answer.document_tokens / max(1, answer.memory_tokens), 2),
        "latency_ms": round(1000 * context.compressor_seconds, 1),
        "memories_left_out": answer.left_out,
        "memories_cut": answer.cut,
        "not_in_memory": answer.not_in_memory,
    }


@protected_router.post("/embed")
async def embed(request: Request) -> Response:
    """Embed texts as vectors of length 1.

    The vector of CLaRa has the direction of the mean of a text's memory vectors.
    """
    services = get_services(request)
    cost = ModelCost()
    with record_request(request, services) as context:
        body = await json_body.read_json(request, services.settings.max_body_bytes, services.bodies, EmbedRequest)
        await authentication.reserve_local(request.scope, context, measure_bytes(body.texts))
        with json_body.cancel_on_disconnect(request):
            if body.model == SMALL_MODEL:
                context.engine, context.model = "none", SMALL_MODEL
                vectors = await asyncio.to_thread(_embed_with_small_model, body.texts, body.max_length)
            else:
                clara = select_clara(services, body, body.model)
                vectors = await clara.embed(body.texts, services.settings.clara_timeout, cost, body.max_length)
            vectors = [_shorten_vector(vector, body.dimensions) for vector in vectors]
            answer = {"embeddings": vectors, "dimensions": len(vectors[0])}
            content = await asyncio.to_thread(orjson.dumps, answer)
        context.model_cost = ModelUsage(cost.tokens, cost.gpu_seconds)
    return Response(content, media_type="application/json", headers={"x-clara-engine": context.engine})


def _embed_with_small_model(texts: list[str], max_words: int | None) -> list[list[float]]:
    if max_words is not None:
        texts = [" ".join(text.split(maxsplit=max_words)[:max_words]) for text in texts]
    return [[float(value) for value in vector] for vector in embeddings.embed(texts)]


def _shorten_vector(vector: list[float], dimensions: int | None) -> list[float]:
    """Return the first numbers of a vector, scaled to length 1."""
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise ApiError(400, f"dimensions must be at most {len(vector)} for this model", param="dimensions")
    length = math.hypot(*vector[:dimensions]) or 1.0
    return [value / length for value in vector[:dimensions]]


@protected_router.post("/unload")
async def unload(request: Request) -> dict[str, Any]:
    """Unload CLaRa and the pruner as soon as no request uses them; the next request loads them again."""
    services = get_services(request)
    was_loaded = False
    if services.pruner is not None:
        was_loaded = services.pruner.status().loaded
        services.pruner.unload()
    if services.clara is not None or services.pruner is None:
        was_loaded |= get_local_clara(services).unload()
    message = "the model is unloaded as soon as no request uses it" if was_loaded else "the model was not loaded"
    return {"success": True, "was_loaded": was_loaded, "message": message}


@protected_router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """Return the model's name, load state and counters, and those of the pruner if there is one."""
    services = get_services(request)
    pruner = {} if services.pruner is None else {"pruner": _describe_pruner(services, services.pruner.status())}
    clara = services.clara
    if clara is None:
        return {"model": None, "loaded": False, "loading": False, **pruner}
    known = clara.status()
    counts: dict[str, int] = known.get("totals", {})
    return {
        **_describe_activity(clara.worker.status()),
        "load_time_seconds": known.get("load_seconds"),
        "requests_served": counts.get("answers", 0),
        **known,
        **pruner,
    }


def _describe_pruner(services: Services, worker: WorkerStatus) -> dict[str, Any]:
    return {
        "model": services.settings.pruner,
        "loaded": worker.loaded,
        "loading": worker.loading,
        "waiting": worker.waiting,
        "running": worker.running,
        "busy_seconds": round(worker.busy_seconds, 3),
        **_describe_activity(worker),
    }


def _describe_activity(worker: WorkerStatus) -> dict[str, Any]:
    """Return when an idle model worked last, and when it will be unloaded, as other CLaRa servers do."""
    idle_since, keep_alive = worker.idle_since, worker.keep_alive
    end = None if idle_since is None or keep_alive is None else idle_since + keep_alive
    return {
        "last_activity": _format_time(idle_since),
        "will_unload_at": _format_time(end),
        "seconds_until_unload": None if end is None else max(0, round(end - time())),
    }


def _format_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Return the health of the server, without loading the model."""
    clara = get_services(request).clara
    status = None if clara is None else clara.status()
    return {
        "status": "ok",
        "model": None if status is None else status["model"],
        "model_loaded": status is not None and status["loaded"],
        "model_loading": status is not None and status["loading"],
    }


router.include_router(protected_router)


def measure_bytes(texts: list[str]) -> int:
    """Return the size of texts in UTF-8."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def select_clara(services: Services, options: ModelChoice, name: str = MODEL_NAME) -> ClaraBackend:
    """Return the model at the requested rate: that of `compression_rate`, or of a name such as `clara-16`."""
    rate = options.compression_rate
    if name != MODEL_NAME:
        rate = parse_rate(name)
        if rate is None or options.compression_rate not in (None, rate):
            raise ApiError(404, f"there is no model {name!r} here", param="model", code="model_not_found")
    clara = get_local_clara(services).select_rate(rate)
    clara.set_keep_alive(options.keep_alive)
    return clara


@contextmanager
def record_request(request: Request, services: Services) -> Generator[RequestContext]:
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
