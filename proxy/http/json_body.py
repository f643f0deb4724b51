"""Reads and validates the JSON bodies of the proxy's own endpoints."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from ..protocols import offload
from ..protocols.api_errors import ApiError
from .body_budget import BodyBudget
from .content_encoding import decode_body
from .exchange import CancelOnDisconnect, Exchange

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, limit: int, budget: BodyBudget) -> bytes | None:
    """Read a request's body of at most `limit` bytes, without its content encoding; None if that is unknown.

    Raises:
        ApiError: 413 for a larger body, 400 for one that does not match its content encoding, 503 if other bodies take
            the memory.
        ClientDisconnected: the client disconnected before the body was complete.
    """
    with budget.reserve() as reservation:
        raw = await Exchange(request.scope, request.receive, _reject_send).read_body(limit, reservation)
        return await decode_body(raw, request.headers.get("content-encoding", ""), limit, reservation)


def cancel_on_disconnect(request: Request) -> CancelOnDisconnect:
    """Return a context manager that cancels its block when the client disconnects. The body must have been read."""
    exchange = Exchange(request.scope, request.receive, _reject_send)
    exchange.mark_body_complete()
    return CancelOnDisconnect(exchange)


async def read_json(request: Request, limit: int, budget: BodyBudget, model: type[Model]) -> Model:
    """Read a request's JSON body of at most `limit` bytes as an instance of `model`.

    Raises:
        ApiError: 400 for an invalid body, and the errors of `read_body`.
    """
    body = await read_body(request, limit, budget)
    if body is None:
        message = f"the content encoding {request.headers['content-encoding'][:80]!r} is not supported"
        raise ApiError(400, message, code="invalid_encoding")
    try:
        return await offload.run_for(len(body), model.model_validate_json, body)
    except ValidationError as error:
        raise build_validation_error(error) from None


def build_validation_error(
    error: ValidationError, *, prefix: tuple[str, ...] = (), code: str | None = None
) -> ApiError:
    """Return a 400 for the first invalid field, with its dotted path below `prefix` as `param`."""
    first = error.errors()[0]
    path = ".".join(map(str, (*prefix, *first["loc"])))
    problem = " is required" if first["type"] == "missing" else f": {first['msg']}"
    return ApiError(400, f"{path or 'body'}{problem}", param=path or None, code=code)


async def _reject_send(_: object) -> None:
    raise AssertionError("the framework sends the response")
