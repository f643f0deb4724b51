"""Which headers go on to the next hop, both ways, and where that is."""

import re

from ..protocols.api_errors import ApiError
from .exchange import RawHeaders, Scope
from .request_options import HEADER_PREFIX

_OPTION_PREFIX = HEADER_PREFIX.encode()
_CORS_PREFIX = b"access-control-"
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade"}
)
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
BODY_HEADERS = frozenset({b"content-length", b"content-encoding"})  # what no longer holds of a body that was rewritten
CREDENTIALS = frozenset({b"authorization", b"api-key", b"x-api-key"})
# A segment of one or two dots, written plainly or not; some servers take a backslash for a slash.
_DOT_SEGMENT = re.compile(r"(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)", re.IGNORECASE)


def filter_request_headers(
    raw_headers: RawHeaders, *, key: str | None, as_bearer: bool = True, excluded: frozenset[bytes] = frozenset()
) -> list[tuple[str, str]]:
    """Return the request headers that go upstream: no hop-by-hop ones, none of ours; `key` takes the client's place."""
    dropped = (
        _NOT_FORWARDED | excluded | _list_connection_headers(raw_headers) | (CREDENTIALS if key else frozenset[bytes]())
    )
    kept = [
        (name.decode("latin-1"), value.decode("utf-8", "replace"))
        for name, value in raw_headers
        if name not in dropped and not name.startswith(_OPTION_PREFIX)
    ]
    if not key:
        return kept
    return [*kept, ("authorization", f"Bearer {key}") if as_bearer else ("x-api-key", key)]


def filter_response_headers(raw_headers: RawHeaders, *, excluded: frozenset[bytes] = frozenset()) -> RawHeaders:
    """Return the response headers that go back to the client, names in lower case.

    Those that let web pages of other origins read the answer stay here: the upstream means its own clients by them, and
    here they would let any page that somebody looks at ask with the keys of this proxy.
    """
    lowered = [(name.lower(), value) for name, value in raw_headers]
    dropped = HOP_BY_HOP | excluded | _list_connection_headers(lowered)
    return [(name, value) for name, value in lowered if name not in dropped and not name.startswith(_CORS_PREFIX)]


def _list_connection_headers(raw: RawHeaders) -> frozenset[bytes]:
    """Return the headers that `connection` names: they are for one hop too."""
    return frozenset(
        part.strip().lower() for name, value in raw if name == b"connection" for part in value.split(b",") if part
    )


def build_upstream_url(base_url: str, scope: Scope) -> str:
    """Return where a request to `/v1/...` goes: its path beneath the upstream's base URL, its query as it came.

    Raises:
        ApiError: 400 for a path that would not stay beneath it, or would even name another host.
    """
    raw = bytes(scope.get("raw_path") or str(scope["path"]).encode()).split(b"?")[0].decode("latin-1")
    if not raw.startswith("/v1/") or _DOT_SEGMENT.search(raw):
        raise ApiError(400, "the path must begin with /v1/ and have no segment of dots", code="invalid_path")
    query = bytes(scope.get("query_string", b"")).decode("latin-1")
    return base_url.rstrip("/") + raw.removeprefix("/v1") + (f"?{query}" if query else "")
