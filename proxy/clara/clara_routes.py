"""CLaRa's own endpoints: `/compress`, `/embed`, `/unload`, `/status`, `/health`, as other CLaRa servers have them.

An error of the model becomes OpenAI's error JSON here (`told`); what is asked is one row in the ledger, like all else.
"""

import hmac
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, ValidationError

from ...compression.clara.async_engine import LocalClara
from ...compression.clara.exceptions import CheckpointError, ClaraError, DeadlineError, QueueFullError
from ...compression.clara.jobs import ModelCost
from ...compression.compressor import ModelUsage
from ..access import authentication
from ..http import request_options
from ..http.exchange import Exchange
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..runtime.services import Services, get_services

Body = TypeVar("Body", bound=BaseModel)
NonEmptyText = Annotated[str, Field(min_length=1)]


class ClaraCompressRequest(BaseModel):
    """Memories, and a question about them."""

    memories: list[NonEmptyText] = Field(min_length=1)
    query: NonEmptyText
    max_new_tokens: int = Field(default=128, ge=1, le=4096)


class EmbedRequest(BaseModel):
    """Texts to turn into vectors."""

    texts: list[NonEmptyText] = Field(min_length=1)


def require_clara_key(request: Request) -> None:
    """Let only those in who know `CLARA_API_KEY`, if there is one, or have a key of the proxy's own."""
    if authentication.get_caller(request.scope) is not None:
        return
    wanted = get_services(request).settings.api_key
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if wanted is not None and not hmac.compare_digest(given.encode(), wanted.encode()):
        raise ApiError(401, "CLARA_API_KEY is set, and this request does not bear it", code="invalid_api_key")


router = APIRouter(tags=["clara"])
protected_router = APIRouter(dependencies=[Depends(require_clara_key)])


@protected_router.post("/compress")
async def compress(request: Request, response: Response) -> dict[str, Any]:
    """Answer a question from memories that are compressed first."""
    held = get_services(request)
    with _record_request(request, held) as visit:
        asked = await _read_body(request, ClaraCompressRequest)
        answer = await get_local_clara(held).answer(
            asked.memories, asked.query, asked.max_new_tokens, held.settings.clara_timeout
        )
        visit.model_cost = answer.usage
        visit.received_tokens, visit.saved_tokens = answer.text_tokens, answer.text_tokens - answer.memory_tokens
        visit.compressor_seconds = perf_counter() - visit.start_time
    response.headers["x-clara-engine"] = visit.engine
    return {
        "success": True,
        "answer": answer.text,
        "original_tokens": answer.text_tokens,
        "compressed_tokens": answer.memory_tokens,
        "compression_ratio": round(answer.text_tokens / max(1, answer.memory_tokens), 2),
        "latency_ms": round(1000 * visit.compressor_seconds, 1),
        "memories_left_out": answer.left_out,
    }


@protected_router.post("/embed")
async def embed(request: Request, response: Response) -> dict[str, Any]:
    """Turn texts into vectors: of each, the mean of its memory vectors."""
    held = get_services(request)
    cost = ModelCost()
    with _record_request(request, held) as visit:
        asked = await _read_body(request, EmbedRequest)
        embeddings = await get_local_clara(held).embed(asked.texts, held.settings.clara_timeout, cost)
        visit.model_cost = ModelUsage(cost.tokens, cost.gpu_seconds)
    response.headers["x-clara-engine"] = visit.engine
    return {"embeddings": embeddings, "dimensions": len(embeddings[0])}


@protected_router.post("/unload")
async def unload(request: Request) -> dict[str, bool]:
    """Let the model go; the next request loads it again."""
    get_local_clara(get_services(request)).unload()
    return {"success": True}


@protected_router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """Say which model there is, whether it is loaded, and what it has done."""
    clara = get_services(request).clara
    return {"model": None, "loaded": False} if clara is None else clara.status()


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Say that the server is there; never loads the model."""
    clara = get_services(request).clara
    return {"status": "ok", "model_loaded": clara is not None and clara.status()["loaded"]}


router.include_router(protected_router)


def get_local_clara(held: Services) -> LocalClara:
    """Return the local CLaRa, or say how to get one."""
    if held.clara is None:
        message = "there is no CLaRa model: install the extra [clara], or set CLARA_MODEL (such as a folder)"
        raise ApiError(503, message, code="model_unavailable")
    return held.clara


@contextmanager
def map_clara_errors() -> Generator[None]:
    """Turn what CLaRa raises into answers: 429 when the queue is full, 503 when it is late or not there, else 400."""
    try:
        yield
    except QueueFullError as error:
        raise ApiError(429, str(error), code="overloaded", headers={"retry-after": "1"}) from error
    except DeadlineError as error:
        raise ApiError(503, str(error), code="deadline", headers={"retry-after": "1"}) from error
    except (CheckpointError, ImportError) as error:
        raise ApiError(503, f"the CLaRa model cannot be loaded: {error}", code="model_unavailable") from error
    except ClaraError as error:
        raise ApiError(400, str(error), code="clara_error") from error


@contextmanager
def _record_request(request: Request, held: Services) -> Generator[RequestContext]:
    """Account for one request to the local model, whatever becomes of it."""
    default = authentication.get_default_options(request.scope, request_options.build_default_options(held.settings))
    engine = held.clara.name if held.clara is not None else "none"
    visit = RequestContext(request.url.path, default, protocol="clara", mode="latent", engine=engine, outcome="served")
    visit.model = held.clara.config.model if held.clara is not None else ""
    with visit.record_in_ledger(held.ledger), map_clara_errors():
        visit.options = request_options.parse_headers(request.headers, default)
        yield visit
        visit.status = 200


async def _read_body(request: Request, shape: type[Body]) -> Body:
    limit = get_services(request).settings.max_body_mb * 2**20
    raw = await Exchange(request.scope, request.receive, _unused_send).read_body(limit)
    try:
        return shape.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ApiError(400, f"{where or 'body'}: {first['msg']}", param=where or None) from None


async def _unused_send(_: object) -> None:
    raise AssertionError("the framework sends the response")
