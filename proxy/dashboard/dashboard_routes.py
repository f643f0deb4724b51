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
from ..stores.ledger_queries import PageCursor, RowFilters
from ..stores.originals import OriginalsError
from . import row_json, side_by_side
from .overview import TIME_SPANS, Overview

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
PAGE_ROWS = 50  # rows
_ID_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,80}")

router = APIRouter(include_in_schema=False)


@router.get("/dashboard")
async def get_page() -> Response:
    """Return the page."""
    return _build_file_response("page.html")


@router.get("/dashboard/assets/{name}")
async def get_asset(name: str) -> Response:
    """Return one of the files that the page is made of."""
    if name not in load_files():
        raise ApiError(404, "there is no such file", code="not_found")
    return _build_file_response(name)


@router.get("/dashboard/data/overview")
async def get_overview(request: Request, span: str = "24h") -> Response:
    """Return what there is to see of a span of time."""
    if span not in TIME_SPANS:
        raise ApiError(400, f"a span is one of {', '.join(TIME_SPANS)}", param="span", code="invalid_query")
    gathered = request.app.state.overview
    assert isinstance(gathered, Overview)
    return _build_json_response(await gathered.get_overview(span))


def parse_filters(request: Request) -> RowFilters:
    """Read the filters of a list; ApiError 400 for a text that no row could have."""
    said = request.query_params
    filters = RowFilters(**{name: said.get(name, "") for name in RowFilters.__dataclass_fields__})
    if not filters.is_valid:
        raise ApiError(400, "a filter is a text of 200 characters at most", code="invalid_query")
    return filters


@router.get("/dashboard/data/requests")
async def list_requests(
    request: Request, filters: Annotated[RowFilters, Depends(parse_filters)], span: str = "24h", after: str = ""
) -> Response:
    """Return the newest requests that fit, and where the list goes on."""
    if span not in TIME_SPANS:
        raise ApiError(400, f"a span is one of {', '.join(TIME_SPANS)}", param="span", code="invalid_query")
    ledger = get_services(request).ledger
    await ledger.flush()
    found = await ledger_queries.read_page(
        ledger, filters, TIME_SPANS[span].compute_start(time.time()), cursor=_parse_cursor(after), limit=PAGE_ROWS
    )
    rows = [row_json.serialize_summary(row) for row in found.rows]
    return _build_json_response(
        {"rows": rows, "after": None if found.next_cursor is None else str(found.next_cursor), "full": found.is_full}
    )


@router.get("/dashboard/data/requests/{name}")
async def get_request(request: Request, name: str) -> Response:
    """Return all that the ledger has of a request, and which of its passages can be looked at."""
    held = get_services(request)
    await held.ledger.flush()
    row = await ledger_queries.find_row(held.ledger, name) if _ID_PATTERN.fullmatch(name) else None
    if row is None:
        raise ApiError(404, "there is no such request in the ledger", code="not_found")
    places = await _list_kept_positions(held, name)
    return _build_json_response(
        {**row_json.serialize_row(row), "kept": sorted(places), "keep_content": held.settings.keep_content}
    )


@router.get("/dashboard/data/requests/{name}/passages/{at}")
async def get_passage(request: Request, name: str, at: int) -> Response:
    """Return a passage as it came and as it was sent, side by side."""
    held = get_services(request)
    if held.contents is None:
        message = "texts are not shown: CLARA_KEEP_CONTENT=passages would keep them"
        raise ApiError(403, message, code="content_not_kept")
    try:
        texts = await held.contents.read_texts(name, at) if _ID_PATTERN.fullmatch(name) else None
    except OriginalsError as error:
        raise ApiError(503, str(error), code="store_unavailable", headers={"retry-after": "1"}) from error
    if texts is None:
        raise ApiError(404, "this text was not kept, or is not any more", code="not_found")
    anew, blocks = await asyncio.to_thread(side_by_side.compare_texts, texts.before, texts.after)
    return _build_json_response(
        {"before": texts.before, "after": texts.after, "anew": anew, "blocks": [list(block) for block in blocks]}
    )


async def _list_kept_positions(held: Services, name: str) -> frozenset[int]:
    if held.contents is None:
        return frozenset()
    try:
        return await held.contents.list_positions(name)
    except OriginalsError:  # the figures are there nevertheless; asked for a text, it says so
        return frozenset()


def _parse_cursor(text: str) -> PageCursor | None:
    try:
        return ledger_queries.parse_cursor(text) if text else None
    except ValueError as error:
        raise ApiError(400, str(error), param="after", code="invalid_query") from None


@cache
def load_files() -> Mapping[str, bytes]:
    """Return the files that the page is made of, by name. Source: `web/`."""
    folder = Path(__file__).with_name("web")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix[1:] in MEDIA_TYPES}


def _build_file_response(name: str) -> Response:
    kind = MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(load_files()[name], headers={**SECURITY_HEADERS, "cache-control": "no-cache"}, media_type=kind)


def _build_json_response(found: Any) -> Response:
    return Response(
        orjson.dumps(found), headers={**SECURITY_HEADERS, "cache-control": "no-store"}, media_type="application/json"
    )
