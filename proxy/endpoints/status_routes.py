"""The proxy's own endpoints: health and metrics (`health.py`), savings, and fetching originals back."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from ...compression.tokens import get_token_counter
from ..access import authentication
from ..http import json_body, request_options
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..reports import agreement, render
from ..runtime.services import Services, get_services
from ..stores import originals
from ..stores.originals import OriginalsError
from . import health

_MAX_BODY_BYTES = 2**16  # bytes of a body of `/v1/retrieve`
router = APIRouter()
router.get("/livez", tags=["operations"], response_model=dict[str, str])(health.livez)
router.get("/readyz", tags=["operations"])(health.readyz)
router.get("/metrics", tags=["operations"], response_class=Response)(health.metrics)


@router.get("/stats", tags=["operations"])
async def stats(request: Request) -> dict[str, Any]:
    """Return the totals of the whole ledger by mode."""
    ledger = get_services(request).ledger
    await ledger.flush()
    totals = await ledger.read_totals("mode", since=0.0)
    return {"by_mode": totals, "rows_lost": ledger.lost_rows + ledger.previously_lost_rows}


@router.get("/v1/savings", tags=["operations"])
async def savings(request: Request, since: str = "30d", by: str = "all") -> dict[str, Any]:
    """Return the tokens received, sent, saved and billed since a time, by group, as in `clara-proxy report`."""
    if unknown := sorted(request.query_params.keys() - {"since", "by"}):
        message = f"unknown query parameter {', '.join(unknown)[:200]}; use since and by"
        raise ApiError(400, message, param=unknown[0][:80], code="invalid_query")
    ledger = get_services(request).ledger
    await ledger.flush()  # the answer includes all earlier requests
    try:
        start = render.parse_since(since, time.time())
        totals = await ledger.read_totals(by, start)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_query") from None
    shadow = await agreement.read_agreement(ledger, start)
    return {
        "since": since,
        "by": by,
        "groups": totals,
        "shadow": None if shadow is None else agreement.serialize_agreement(shadow),
    }


@router.get("/v1/retrieve/{name}", tags=["sidecar"], operation_id="retrieve")
@router.post("/v1/retrieve/{name}", tags=["sidecar"], operation_id="retrieve_by_post")
async def retrieve(
    request: Request,
    name: Annotated[str, Path(description="The hash in the marker.")],
    query: Annotated[str | None, Query(description="Return only the lines that match these words.")] = None,
    lines: Annotated[str | None, Query(description="Return only these lines, for example `10-20`.")] = None,
) -> JSONResponse:
    """Return an original, or a part of it, to the client whose request stored it."""
    return await _retrieve_original(request, RetrieveRequest(hash=name, query=query, lines=lines))


class RetrieveRequest(BaseModel):
    """The hash of an original, and optionally the lines to return: by words of a query, or by number."""

    hash: str
    query: str | None = None
    lines: str | None = None


@router.post("/v1/retrieve", tags=["sidecar"])
async def retrieve_named(request: Request) -> JSONResponse:
    """Return an original, with the hash and the part in the body."""
    budget = get_services(request).bodies
    return await _retrieve_original(
        request, await json_body.read_json(request, _MAX_BODY_BYTES, budget, RetrieveRequest)
    )


async def _retrieve_original(request: Request, fetch: RetrieveRequest) -> JSONResponse:
    services = get_services(request)
    options = authentication.get_default_options(
        request.scope, request_options.build_default_options(services.settings)
    )
    context = RequestContext("/v1/retrieve", options, protocol="retrieve", outcome="served")
    with context.record_in_ledger(services.ledger):
        context.options = request_options.parse_headers(request.headers, context.options)
        excerpt = await _read_excerpt(services, authentication.get_owner_id(request.scope), fetch)
        context.status, context.fetched_tokens = 200, get_token_counter("").count(excerpt)
    return JSONResponse({"hash": fetch.hash.lower(), "original_content": excerpt})


async def _read_excerpt(services: Services, owner_id: str, fetch: RetrieveRequest) -> str:
    try:
        text = await services.originals.get(owner_id, fetch.hash.lower())
    except OriginalsError as error:
        raise ApiError(503, str(error), code="store_unavailable", headers={"retry-after": "1"}) from error
    if text is None:
        message = "no such original: the hash is unknown, has expired, or belongs to another key"
        raise ApiError(404, message, param="hash", code="not_found")
    try:
        return await asyncio.to_thread(originals.cut_excerpt, text, fetch.query, fetch.lines)
    except ValueError as error:
        raise ApiError(400, str(error), param="lines", code="invalid_lines") from None
