"""Headers and URL of the next hop: request headers for the upstream, response headers for the client."""

import re
from collections.abc import Sequence
from functools import lru_cache

from ..protocols.api_errors import ApiError
from .exchange import RawHeaders, Scope, decode_header
from .request_options import HEADER_PREFIX

_OPTION_PREFIX = HEADER_PREFIX.encode()
_CORS_PREFIX = b"access-control-"
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade"}
)
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_NO_NAMES = frozenset[bytes]()
_DROPPED_PREFIXES = (_CORS_PREFIX, _OPTION_PREFIX)
BODY_HEADERS = frozenset({b"content-length", b"content-encoding"})  # invalid for a rewritten body
CREDENTIALS = frozenset({b"authorization", b"api-key", b"x-api-key"})
# A segment of one or two dots, percent-encoded or not; some servers read a backslash as a slash.
_DOT_SEGMENT = re.compile(r"(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)", re.IGNORECASE)


def filter_request_headers(
    raw_headers: Sequence[tuple[bytes, bytes]],
    *,
    key: str | None,
    as_bearer: bool = True,
    excluded: frozenset[bytes] = frozenset(),
) -> tuple[tuple[str, str], ...]:
    """Return the request headers for the upstream, without hop-by-hop headers and `x-clara-*`.

    A `key` replaces the client's own credentials.
    """
    dropped = (
        _NOT_FORWARDED | excluded | _list_connection_headers(raw_headers) | (CREDENTIALS if key else frozenset[bytes]())
    )
    headers = tuple(
        [
            (name.decode("latin-1"), decode_header(value))
            for name, value in raw_headers
            if name not in dropped and not name.startswith(_OPTION_PREFIX)
        ]
    )
    if not key:
        return headers
    return (*headers, ("authorization", f"Bearer {key}") if as_bearer else ("x-api-key", key))


def filter_response_headers(raw_headers: RawHeaders, *, excluded: frozenset[bytes] = frozenset()) -> RawHeaders:
    """Return the response headers for the client, names in lower case.

    CORS headers are dropped: they would let any web page in a user's browser send requests with this proxy's keys. So
    are `x-clara-*` headers: only the proxy itself may write them.
    """
    lowered = [(name.lower(), value) for name, value in raw_headers]
    dropped = _join_names(excluded, _list_connection_headers(lowered))
    return [(name, value) for name, value in lowered if name not in dropped and not name.startswith(_DROPPED_PREFIXES)]


@lru_cache(256)
def _join_names(excluded: frozenset[bytes], listed: frozenset[bytes]) -> frozenset[bytes]:
    return HOP_BY_HOP | excluded | listed


def _list_connection_headers(raw_headers: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the names in the `connection` header, which are hop-by-hop headers, too."""
    values = [value for name, value in raw_headers if name == b"connection"]
    if not values:
        return _NO_NAMES
    return frozenset([part.strip().lower() for value in values for part in value.split(b",") if part])


def build_upstream_url(base_url: str, scope: Scope) -> str:
    """Return the upstream's URL for a request to `/v1/...`, with the request's path and query.

    A query of the base URL, such as Azure's `?api-version=preview`, comes first; the request's values override it.

    Raises:
        ApiError: 400 for a path that could leave the base URL's path or host.
    """
    path = bytes(scope.get("raw_path") or str(scope["path"]).encode())
    return _join_url(base_url, path, bytes(scope.get("query_string", b"")))


@lru_cache(256)
def _join_url(base_url: str, raw_path: bytes, raw_query: bytes) -> str:
    path, query = raw_path.split(b"?")[0].decode("latin-1"), raw_query.decode("latin-1")
    if not path.startswith("/v1/") or _DOT_SEGMENT.search(path):
        raise ApiError(400, "the path must begin with /v1/ and must not contain . or .. segments", code="invalid_path")
    base_url, _, base_query = base_url.partition("?")
    if base_query:
        query = _merge_queries(base_query, query)
    return base_url.rstrip("/") + path.removeprefix("/v1") + (f"?{query}" if query else "")


def _merge_queries(base_query: str, query: str) -> str:
    """Return both queries joined, without the base URL's values for names that the request sets."""
    names = {part.partition("=")[0] for part in query.split("&")}
    kept = [part for part in base_query.split("&") if part and part.partition("=")[0] not in names]
    return "&".join([*kept, *([query] if query else [])])
