"""`/dashboard`: one page, what it is made of, and the figures in it as JSON. Only GET; nothing is changed here.

Who may look is the gate's business. Texts of a conversation are given out by one of these addresses only, and only
where `CLARA_KEEP_CONTENT` says so. Every file is read once, by its name in a fixed list; the policy sent with each lets
the page load nothing from elsewhere, run nothing that stands in it, and put no text in as HTML.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from ..protocols.api_errors import ApiError
from ..runtime.services import Services, get_services
from ..stores import ledger_queries
from ..stores.ledger_queries import Filters, Place
from ..stores.originals import OriginalsError
from . import row_json, side_by_side
from .overview import SPANS, Overview

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
GUARDS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
PAGE = 50  # rows
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,80}")

router = APIRouter(include_in_schema=False)


@router.get("/dashboard")
async def page() -> Response:
    """Return the page."""
    return _file("page.html")


@router.get("/dashboard/assets/{name}")
async def asset(name: str) -> Response:
    """Return one of the files that the page is made of."""
    if name not in files():
        raise ApiError(404, "there is no such file", code="not_found")
    return _file(name)


@router.get("/dashboard/data/overview")
async def overview(request: Request, span: str = "24h") -> Response:
    """Return what there is to see of a span of time."""
    if span not in SPANS:
        raise ApiError(400, f"a span is one of {', '.join(SPANS)}", param="span", code="invalid_query")
    gathered = request.app.state.overview
    assert isinstance(gathered, Overview)
    return _json(await gathered.of(span))


def chosen(request: Request) -> Filters:
    """Read the filters of a list; ApiError 400 for a text that no row could have."""
    said = request.query_params
    filters = Filters(**{name: said.get(name, "") for name in Filters.__dataclass_fields__})
    if not filters.sensible:
        raise ApiError(400, "a filter is a text of 200 characters at most", code="invalid_query")
    return filters


@router.get("/dashboard/data/requests")
async def requests(
    request: Request, filters: Annotated[Filters, Depends(chosen)], span: str = "24h", after: str = ""
) -> Response:
    """Return the newest requests that fit, and where the list goes on."""
    if span not in SPANS:
        raise ApiError(400, f"a span is one of {', '.join(SPANS)}", param="span", code="invalid_query")
    ledger = get_services(request).ledger
    await ledger.flush()
    found = await ledger_queries.page(ledger, filters, SPANS[span].start(time.time()), after=_place(after), limit=PAGE)
    rows = [row_json.short(row) for row in found.rows]
    return _json({"rows": rows, "after": None if found.after is None else str(found.after), "full": found.full})


@router.get("/dashboard/data/requests/{name}")
async def one(request: Request, name: str) -> Response:
    """Return all that the ledger has of a request, and which of its passages can be looked at."""
    held = get_services(request)
    await held.ledger.flush()
    row = await ledger_queries.one(held.ledger, name) if _ID.fullmatch(name) else None
    if row is None:
        raise ApiError(404, "there is no such request in the ledger", code="not_found")
    places = await _reached(held, name)
    return _json({**row_json.whole(row), "kept": sorted(places), "keep_content": held.settings.keep_content})


@router.get("/dashboard/data/requests/{name}/passages/{at}")
async def passage(request: Request, name: str, at: int) -> Response:
    """Return a passage as it came and as it was sent, side by side."""
    held = get_services(request)
    if held.contents is None:
        message = "texts are not shown: CLARA_KEEP_CONTENT=passages would keep them"
        raise ApiError(403, message, code="content_not_kept")
    try:
        texts = await held.contents.texts(name, at) if _ID.fullmatch(name) else None
    except OriginalsError as error:
        raise ApiError(503, str(error), code="store_unavailable", headers={"retry-after": "1"}) from error
    if texts is None:
        raise ApiError(404, "this text was not kept, or is not any more", code="not_found")
    anew, blocks = await asyncio.to_thread(side_by_side.compare, texts.before, texts.after)
    return _json(
        {"before": texts.before, "after": texts.after, "anew": anew, "blocks": [list(block) for block in blocks]}
    )


async def _reached(held: Services, name: str) -> frozenset[int]:
    if held.contents is None:
        return frozenset()
    try:
        return await held.contents.places(name)
    except OriginalsError:  # the figures are there nevertheless; asked for a text, it says so
        return frozenset()


def _place(text: str) -> Place | None:
    try:
        return ledger_queries.place(text) if text else None
    except ValueError as error:
        raise ApiError(400, str(error), param="after", code="invalid_query") from None


@cache
def files() -> Mapping[str, bytes]:
    """Return the files that the page is made of, by name. Source: `web/`."""
    folder = Path(__file__).with_name("web")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix[1:] in KINDS}


def _file(name: str) -> Response:
    kind = KINDS[name.rpartition(".")[2]]
    return Response(files()[name], headers={**GUARDS, "cache-control": "no-cache"}, media_type=kind)


def _json(found: Any) -> Response:
    return Response(orjson.dumps(found), headers={**GUARDS, "cache-control": "no-store"}, media_type="application/json")
