"""The proxy's own endpoints: is it alive, what has it done, and the way back to an original."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError

from ...compression.tokens import get_token_counter
from ..access import authentication
from ..http import request_options
from ..http.exchange import Exchange
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..reports import agreement, render
from ..runtime.services import Services, get_services
from ..stores import originals
from ..stores.originals import OriginalsError
from ..watch.metrics import CONTENT_TYPE

_MAX_BODY_BYTES = 2**16  # bytes of a body that names an original
router = APIRouter()


@router.get("/livez", tags=["operations"])
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operations"])
async def readyz(request: Request) -> dict[str, str]:
    """Say that the stores are open and requests are taken."""
    get_services(request)
    return {"status": "ready"}


@router.get("/metrics", tags=["operations"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Return what this process has done since it began, as Prometheus reads it."""
    return Response(await get_services(request).metrics.render_page(), headers={"content-type": CONTENT_TYPE})


@router.get("/stats", tags=["operations"])
async def stats(request: Request) -> dict[str, Any]:
    """Return the totals since this ledger began."""
    ledger = get_services(request).ledger
    await ledger.flush()
    totals = await ledger.read_totals("mode", since=0.0)
    return {"by_mode": totals, "rows_lost": ledger.lost_rows + ledger.previously_lost_rows}


@router.get("/v1/savings", tags=["operations"])
async def savings(request: Request, since: str = "30d", by: str = "all") -> dict[str, Any]:
    """Return what was received, sent, saved and billed since then, in groups: what `clara-proxy report` shows."""
    if unknown := sorted(request.query_params.keys() - {"since", "by"}):
        named = ", ".join(unknown)[:200]
        message = f"savings are asked for with since and by, not with {named}"
        raise ApiError(400, message, param=unknown[0][:80], code="invalid_query")
    ledger = get_services(request).ledger
    await ledger.flush()  # what was asked before this counts
    try:
        start = render.parse_since(since, time.time())
        totals = await ledger.read_totals(by, start)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_query") from None
    found = await agreement.read_agreement(ledger, start)
    return {
        "since": since,
        "by": by,
        "groups": totals,
        "shadow": None if found is None else agreement.serialize_agreement(found),
    }


@router.get("/v1/retrieve/{name}", tags=["sidecar"], operation_id="retrieve")
@router.post("/v1/retrieve/{name}", tags=["sidecar"], operation_id="retrieve_by_post")
async def retrieve(
    request: Request,
    name: Annotated[str, Path(description="The hash that stands in the marker.")],
    query: Annotated[str | None, Query(description="Only the lines that match these words.")] = None,
    lines: Annotated[str | None, Query(description="Only these lines, such as `10-20`.")] = None,
) -> JSONResponse:
    """Give an original back to the client whose request stored it, whole or in part."""
    return await _retrieve_original(request, RetrieveRequest(hash=name, query=query, lines=lines))


class RetrieveRequest(BaseModel):
    """What is wanted of an original: all of it, its lines about a query, or the lines of some numbers."""

    hash: str
    query: str | None = None
    lines: str | None = None


@router.post("/v1/retrieve", tags=["sidecar"])
async def retrieve_named(request: Request) -> JSONResponse:
    """Do the same for clients that put the hash, and what they want of it, into the body."""
    raw = await Exchange(request.scope, request.receive, _unused_send).read_body(_MAX_BODY_BYTES)
    try:
        fetch = RetrieveRequest.model_validate_json(raw)
    except ValidationError as error:
        raise ApiError(400, f"hash, query and lines are texts: {error.errors()[0]['msg']}", param="hash") from None
    return await _retrieve_original(request, fetch)


async def _retrieve_original(request: Request, fetch: RetrieveRequest) -> JSONResponse:
    held = get_services(request)
    default = authentication.get_default_options(request.scope, request_options.build_default_options(held.settings))
    visit = RequestContext("/v1/retrieve", default, protocol="retrieve", outcome="served")
    with visit.record_in_ledger(held.ledger):
        visit.options = request_options.parse_headers(request.headers, visit.options)
        part = await _read_excerpt(held, authentication.get_owner_id(request.scope), fetch)
        visit.status, visit.fetched_tokens = 200, get_token_counter("").count(part)
    return JSONResponse({"hash": fetch.hash.lower(), "original_content": part})


async def _read_excerpt(held: Services, its_owner: str, fetch: RetrieveRequest) -> str:
    try:
        text = await held.originals.get(its_owner, fetch.hash.lower())
    except OriginalsError as error:
        raise ApiError(503, str(error), code="store_unavailable", headers={"retry-after": "1"}) from error
    if text is None:
        raise ApiError(404, "there is no such original: unknown, expired, or not yours", param="hash", code="not_found")
    try:
        return await asyncio.to_thread(originals.cut_excerpt, text, fetch.query, fetch.lines)
    except ValueError as error:
        raise ApiError(400, str(error), param="lines", code="invalid_lines") from None


async def _unused_send(_: object) -> None:
    raise AssertionError("the framework sends the response")
