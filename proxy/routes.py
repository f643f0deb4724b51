"""The proxy's own endpoints: is it alive, what has it done, and the way back to an original."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from ..compression.tokens import vocabulary
from . import originals, steering
from .auth import owner
from .errors import ApiError
from .services import Services
from .visit import Visit

router = APIRouter()


def services(request: Request) -> Services:
    """Return the services of the application that this request came to."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


@router.get("/livez", tags=["operations"])
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operations"])
async def readyz(request: Request) -> dict[str, str]:
    """Say that the stores are open and requests are taken."""
    services(request)
    return {"status": "ready"}


@router.get("/stats", tags=["operations"])
async def stats(request: Request) -> dict[str, Any]:
    """Return the totals since this ledger began."""
    ledger = services(request).ledger
    totals = await ledger.totals("mode", since=0.0)
    return {"by_mode": totals, "rows_lost": ledger.lost}


@router.api_route("/v1/retrieve/{name}", methods=["GET", "POST"], tags=["sidecar"])
async def retrieve(
    request: Request,
    name: Annotated[str, Path(description="The hash that stands in the marker.")],
    query: Annotated[str | None, Query(description="Only the lines that match these words.")] = None,
    lines: Annotated[str | None, Query(description="Only these lines, such as `10-20`.")] = None,
) -> JSONResponse:
    """Give an original back to the client whose request stored it, whole or in part."""
    held = services(request)
    defaults = steering.defaults(held.settings)
    visit = Visit("/v1/retrieve", steering.read(request.headers, defaults), protocol="retrieve", outcome="served")
    text = await held.originals.get(owner(request.headers), name)
    if text is None:
        raise ApiError(404, "there is no such original: unknown, expired, or not yours", param="hash", code="not_found")
    try:
        part = await asyncio.to_thread(originals.part, text, query, lines)
    except ValueError as error:
        raise ApiError(400, str(error), param="lines", code="invalid_lines") from None
    visit.status, visit.fetched_back = 200, vocabulary("").count(part)
    held.ledger.write(visit.row())
    return JSONResponse({"hash": name, "original_content": part})
