"""Shared parts of the endpoints of memory: the caller's memory, ledger rows, errors, pages and bodies."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field

from ..access import authentication
from ..http import json_body, request_options
from ..http.request_context import RequestContext
from ..memory.service import Memory, map_store_errors
from ..protocols.api_errors import ApiError
from ..runtime.services import get_services
from ..stores.memory_store import MemoryNotFoundError

MAX_BODY_BYTES = 2**20
Item = TypeVar("Item")
Body = TypeVar("Body", bound=BaseModel)


class Paging(BaseModel):
    """One page of a list, as OpenAI's API describes it: `after` and `before` are ids."""

    limit: int = Field(default=20, ge=1, le=1000)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


@asynccontextmanager
async def use_memory(request: Request) -> AsyncGenerator[tuple[Memory, str]]:
    """Yield the memory and the owner of a request, and write one ledger row.

    Raises:
        ApiError: 404 for a missing object, 503 if the database cannot be used.
    """
    services = get_services(request)
    memory = services.memory
    assert memory is not None, "these routes exist only with memory"
    options = authentication.get_default_options(
        request.scope, request_options.build_default_options(services.settings)
    )
    context = RequestContext(request.url.path, options, protocol="memory", outcome="served")
    with context.record_in_ledger(services.ledger):
        context.options = request_options.parse_headers(request.headers, context.options)
        try:
            with map_store_errors(memory):
                yield memory, authentication.get_owner_id(request.scope)
        except MemoryNotFoundError as error:
            raise ApiError(404, str(error), code="not_found") from None
        context.status = 200


async def read_json(request: Request, model: type[Body]) -> Body:
    """Read a request's JSON body as an instance of `model`. Raises the errors of `json_body.read_json`."""
    return await json_body.read_json(request, MAX_BODY_BYTES, get_services(request).bodies, model)


def build_page(items: Sequence[Item], serialize: Callable[[Item], dict[str, Any]], paging: Paging) -> dict[str, Any]:
    """Return one page of a list; `items` are all, the newest first."""
    data = [serialize(item) for item in (items if paging.order == "desc" else reversed(items))]
    ids = [entry["id"] for entry in data]
    first = ids.index(paging.after) + 1 if paging.after in ids else 0
    end = ids.index(paging.before) if paging.before in ids else len(data)
    if paging.before in ids and paging.after not in ids:
        first = max(0, end - paging.limit)
    page = data[first : min(end, first + paging.limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": first + paging.limit < end,
    }
