"""Routes of `/dashboard` and `/ask`: the pages, their assets, and data as JSON. All are GET and read-only.

The access middleware decides about permissions. Only `get_passage` returns texts of a conversation, and only if
`CLARA_KEEP_CONTENT` enables it. Assets come from a fixed list of files, read once. Their content security policy
forbids other origins, inline scripts and conversions of text to HTML.
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

from ..memory import question_prompt
from ..protocols.api_errors import ApiError
from ..runtime.services import Services, get_services
from ..stores import ledger_queries
from ..stores.ledger_queries import PageCursor, RowFilters
from ..stores.originals import OriginalsError
from . import row_json, side_by_side
from .overview import TIME_SPANS, Overview, TimeSpan

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
PAGE_ROWS = 50
_ID_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,80}")

router = APIRouter(include_in_schema=False)


@router.get("/dashboard")
async def get_page() -> Response:
    """Return the page."""
    return _build_file_response("page.html")


@router.get("/dashboard/assets/{name}")
async def get_asset(name: str) -> Response:
    """Return an asset of the page."""
    if name not in load_files():
        raise ApiError(404, f"the dashboard has no file {name!r}", code="not_found")
    return _build_file_response(name)


@router.get("/ask")
async def get_ask_page() -> Response:
    """Return the page for files and questions, a client of the public API."""
    return _build_file_response("ask.html")


@router.get("/dashboard/data/ask")
async def get_ask_options(request: Request) -> Response:
    """Return the options of the page `/ask`: memory, local model, keys and prompt."""
    services = get_services(request)
    clara = services.clara
    return _build_json_response(
        {
            "memory": services.memory is not None,
            "clara": None if clara is None else clara.name,
            "needs_key": services.keyring.requires_key,
            "has_upstream_key": services.settings.upstream_api_key is not None,
            "default_model": question_prompt.DEFAULT_MODEL,
            "instructions": question_prompt.INSTRUCTIONS,
            "max_file_bytes": services.settings.max_body_bytes,
        }
    )


@router.get("/dashboard/data/overview")
async def get_overview(request: Request, span: str = "24h") -> Response:
    """Return the overview of a time span."""
    _get_time_span(span)
    overview = request.app.state.overview
    assert isinstance(overview, Overview)
    return _build_json_response(await overview.get_overview(span))


def parse_filters(request: Request) -> RowFilters:
    """Read the filters of the request list from the query; ApiError 400 for an invalid one."""
    query = request.query_params
    filters = RowFilters(**{name: query.get(name, "") for name in RowFilters.__dataclass_fields__})
    if not filters.is_valid:
        raise ApiError(400, "a filter is a text of at most 200 characters", code="invalid_query")
    return filters


@router.get("/dashboard/data/requests")
async def list_requests(
    request: Request, filters: Annotated[RowFilters, Depends(parse_filters)], span: str = "24h", after: str = ""
) -> Response:
    """Return the newest requests that match the filters, and the cursor of the next page in `after`."""
    start = _get_time_span(span).compute_start(time.time())
    ledger = get_services(request).ledger
    await ledger.flush()
    page = await ledger_queries.read_page(ledger, filters, start, cursor=_parse_cursor(after), limit=PAGE_ROWS)
    rows = [row_json.serialize_summary(row) for row in page.rows]
    next_cursor = None if page.next_cursor is None else str(page.next_cursor)
    return _build_json_response({"rows": rows, "after": next_cursor, "full": page.is_full})


@router.get("/dashboard/data/requests/{name}")
async def get_request(request: Request, name: str) -> Response:
    """Return the ledger row of a request, and in `kept` the positions of the passages with stored texts."""
    services = get_services(request)
    await services.ledger.flush()
    row = await ledger_queries.find_row(services.ledger, name) if _ID_PATTERN.fullmatch(name) else None
    if row is None:
        raise ApiError(404, "the ledger has no request with this id", code="not_found")
    positions = await _list_kept_positions(services, name)
    return _build_json_response(
        {**row_json.serialize_row(row), "kept": sorted(positions), "keep_content": services.settings.keep_content}
    )


@router.get("/dashboard/data/requests/{name}/passages/{position}")
async def get_passage(request: Request, name: str, position: int) -> Response:
    """Return the original and the sent text of a passage, and their comparison."""
    contents = get_services(request).contents
    if contents is None:
        message = "texts of requests are not stored; set CLARA_KEEP_CONTENT=passages to store them"
        raise ApiError(403, message, code="content_not_kept")
    try:
        texts = await contents.read_texts(name, position) if _ID_PATTERN.fullmatch(name) else None
    except OriginalsError as error:
        raise ApiError(503, str(error), code="store_unavailable", headers={"retry-after": "1"}) from error
    if texts is None:
        raise ApiError(404, "the text of this passage was not stored or has expired", code="not_found")
    is_rewritten, blocks = await asyncio.to_thread(side_by_side.compare_texts, texts.before, texts.after)
    return _build_json_response(
        {
            "before": texts.before,
            "after": texts.after,
            "is_rewritten": is_rewritten,
            "blocks": [list(block) for block in blocks],
        }
    )


def _get_time_span(name: str) -> TimeSpan:
    if name not in TIME_SPANS:
        message = f"the span {name!r} is unknown; use one of {', '.join(TIME_SPANS)}"
        raise ApiError(400, message, param="span", code="invalid_query")
    return TIME_SPANS[name]


async def _list_kept_positions(services: Services, name: str) -> frozenset[int]:
    if services.contents is None:
        return frozenset()
    try:
        return await services.contents.list_positions(name)
    except OriginalsError:  # the ledger row is still useful; `get_passage` reports the error
        return frozenset()


def _parse_cursor(text: str) -> PageCursor | None:
    try:
        return ledger_queries.parse_cursor(text) if text else None
    except ValueError as error:
        raise ApiError(400, str(error), param="after", code="invalid_query") from None


@cache
def load_files() -> Mapping[str, bytes]:
    """Return the page and its assets from `web/`, by file name."""
    folder = Path(__file__).with_name("web")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix[1:] in MEDIA_TYPES}


def _build_file_response(name: str) -> Response:
    kind = MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(load_files()[name], headers={**SECURITY_HEADERS, "cache-control": "no-cache"}, media_type=kind)


def _build_json_response(value: Any) -> Response:
    return Response(
        orjson.dumps(value), headers={**SECURITY_HEADERS, "cache-control": "no-store"}, media_type="application/json"
    )
