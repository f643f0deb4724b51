"""Authentication: the client's identity, and the credentials that are sent upstream.

A client's identity is the hash of its key; the key itself is not stored. The middleware removes a key of the proxy
from the request (`extract_key`) and puts a `Caller` into the ASGI scope, so that the key is never forwarded.
Authorization is the middleware's task.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple, Self

from ...config.settings import Settings
from ..http import headers
from ..http.exchange import Exchange, RawHeaders, Scope
from ..http.request_context import RequestContext
from ..http.request_headers import RequestHeaders, find_headers
from ..http.request_options import HEADER_PREFIX, RequestOptions
from ..protocols.api_errors import ApiError
from ..stores import api_keys
from ..stores.api_keys import ApiKey
from .reservations import Reservation

ANONYMOUS = "anonymous"
KEY_HEADER = f"{HEADER_PREFIX}key".encode()
_CALLER_SCOPE_KEY = "clara_proxy.caller"
_RESERVATION_SCOPE_KEY = "clara_proxy.reservation"
_ANTHROPIC_PATH = "/v1/messages/"
_KEY_PREFIX = api_keys.KEY_PREFIX.encode()
_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key", b"api-key")  # in order of precedence


class Caller(NamedTuple):
    """The holder of a key of the proxy: owner of the stored originals, header of the key, default options, budget.

    `default_options` are those of the settings with the key's name and, if it has one, the key's project.
    """

    owner_id: str
    header: bytes
    default_options: RequestOptions
    has_budget: bool

    @classmethod
    def from_key(cls, key: ApiKey, header: bytes, default_options: RequestOptions) -> Self:
        """Return the caller for a key that was sent in this header."""
        options = replace(default_options, key_name=key.name, project=key.project or default_options.project)
        return cls(key.hash[:32], header, options, key.has_budget)


class PresentedKey(NamedTuple):
    """A key of the proxy in a request, its header, and the remaining headers.

    `is_basic`: the key was the password of HTTP Basic. `key`: the text, or None if keys were only in headers that
    are not meant for keys.
    """

    key: str | None
    header: bytes
    is_basic: bool
    headers: RawHeaders


def extract_key(headers: RequestHeaders) -> PresentedKey | None:
    """Remove the proxy's keys from the headers; return None if there is no key.

    Each header that contains a key is removed, even one that is not meant for keys.
    """
    key_headers = [
        pair
        for pair in headers.raw
        if pair[0] == KEY_HEADER or _KEY_PREFIX in pair[1] or _extract_basic_key(pair) is not None
    ]
    if not key_headers:
        return None
    values = dict(key_headers)
    header = next((name for name in (KEY_HEADER, *_CREDENTIAL_HEADERS) if name in values), None)
    other_headers = [pair for pair in headers.raw if pair not in key_headers]
    if header is None:
        return PresentedKey(None, b"", is_basic=False, headers=other_headers)
    password = _extract_basic_key((header, values[header]))
    key = password or _strip_bearer(values[header].decode("latin-1"))
    return PresentedKey(key, header, password is not None, other_headers)


def _strip_bearer(value: str) -> str:
    return value[7:].strip() if value[:7].lower() == "bearer " else value.strip()


def _extract_basic_key(header: tuple[bytes, bytes]) -> str | None:
    """Return the key of the proxy in an HTTP Basic header: the password, or the user name if it has no password."""
    name, value = header
    if name != _CREDENTIAL_HEADERS[0] or value[:6].lower() != b"basic ":
        return None
    try:
        pair = base64.b64decode(value[6:].strip(), validate=True).decode("utf-8", "replace")
    except ValueError:
        return None
    user, _, password = pair.partition(":")
    return next((part for part in (password, user) if part.startswith(api_keys.KEY_PREFIX)), None)


def set_caller(scope: Scope, caller: Caller) -> None:
    """Store the caller in the scope."""
    scope[_CALLER_SCOPE_KEY] = caller


def get_caller(scope: Scope) -> Caller | None:
    """Return the caller, or None for a request without a key of the proxy."""
    caller = scope.get(_CALLER_SCOPE_KEY)
    return caller if isinstance(caller, Caller) else None


def has_budget(scope: Scope) -> bool:
    """Return True if the client's key has a budget, so that its requests need a known cost."""
    caller = get_caller(scope)
    return caller is not None and caller.has_budget


def set_reservation(scope: Scope, reservation: Reservation) -> None:
    """Store the reservation of a request in its scope."""
    scope[_RESERVATION_SCOPE_KEY] = reservation


def get_reservation(scope: Scope) -> Reservation | None:
    """Return the reservation of a request whose key has a budget, or None for any other request."""
    reservation = scope.get(_RESERVATION_SCOPE_KEY)
    return reservation if isinstance(reservation, Reservation) else None


async def reserve_local(scope: Scope, context: RequestContext, size: int, max_output: int = 0) -> None:
    """Reserve the tokens of a request of `size` bytes that the proxy answers itself, if its key has a budget.

    Raises:
        ApiError: 429 if the budget is used up or reserved.
    """
    if (reservation := get_reservation(scope)) is not None:
        context.settlement = reservation
        await reservation.reserve_local(size, max_output)


def get_owner_id(scope: Scope) -> str:
    """Return a stable id of the client: the hash of its key, or `anonymous` without a key."""
    if (caller := get_caller(scope)) is not None:
        return caller.owner_id
    return find_headers(scope).derive(_hash_credentials)


def _hash_credentials(headers: RequestHeaders) -> str:
    key = next(filter(None, map(headers.by_name.get, _CREDENTIAL_HEADERS)), None)
    return ANONYMOUS if key is None else sha256(_strip_bearer(key.decode("latin-1")).encode()).hexdigest()[:32]


def get_default_options(scope: Scope, settings_options: RequestOptions) -> RequestOptions:
    """Return the default options of the caller, or those of the settings without a key of the proxy."""
    caller = get_caller(scope)
    return settings_options if caller is None else caller.default_options


def is_anthropic_request(exchange: Exchange) -> bool:
    """Return True if a request is for Anthropic, as its path or its `anthropic-version` header shows."""
    return "anthropic-version" in exchange.headers or f"{exchange.scope['path']}/".startswith(_ANTHROPIC_PATH)


def is_anthropic_client(path: str, request_headers: Mapping[str, str]) -> bool:
    """Return True if a request on any path, even one that does not exist, comes from a client of Anthropic's API."""
    return "anthropic-version" in request_headers or f"{path}/".find("/messages/") >= 0


def build_upstream_headers(
    exchange: Exchange,
    settings: Settings,
    *,
    is_anthropic: bool,
    excluded: frozenset[bytes] = frozenset(),
    added: tuple[tuple[str, str], ...] = (),
) -> tuple[tuple[str, str], ...]:
    """Return the headers for the upstream and those `added`, with the configured key or else the client's own.

    Raises:
        ApiError: 401 if there is neither and the client sent a key of the proxy.
    """
    caller = get_caller(exchange.scope)
    key = settings.anthropic_api_key if is_anthropic else settings.upstream_api_key
    key_header = None if caller is None else caller.header
    client_headers = find_headers(exchange.scope)
    return client_headers.derive(_replace_credentials, key, key_header, is_anthropic, excluded) + added


def _replace_credentials(
    client_headers: RequestHeaders,
    key: str | None,
    key_header: bytes | None,
    is_anthropic: bool,
    excluded: frozenset[bytes],
) -> tuple[tuple[str, str], ...]:
    """Return the headers for the upstream; `key_header` had the client's key of the proxy, if there was one."""
    client_keys = headers.CREDENTIALS & client_headers.by_name.keys()
    if key is None and key_header is not None and not client_keys:
        name = "ANTHROPIC" if is_anthropic else "UPSTREAM"
        message = (
            f"there is no key for the upstream; set CLARA_{name}_API_KEY for the proxy, or send your upstream key "
            f"in the usual header and the proxy's key in {KEY_HEADER.decode()}"
        )
        raise ApiError(401, message, code="no_upstream_key")
    # Anthropic accepts both headers, and a beta may require the one that the client sent.
    as_bearer = not is_anthropic or _CREDENTIAL_HEADERS[0] in (*client_keys, key_header)
    return headers.filter_request_headers(client_headers.raw, key=key, as_bearer=as_bearer, excluded=excluded)
