"""Who is asking, and with which key the upstream is asked in turn.

A client is told apart by the hash of its key; the key itself is kept nowhere. A key of the proxy's own is taken out of
the request before anything else sees it (`shown`, called by `gate`), so that it can go nowhere: what stays in its
place is the `Caller`. Who may do what is not decided here.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple, Self

from ...config.settings import Settings
from ..http import headers
from ..http.exchange import Exchange, RawHeaders, Scope
from ..http.request_options import HEADER_PREFIX, RequestOptions
from ..protocols.api_errors import ApiError
from ..stores import api_keys
from ..stores.api_keys import ApiKey

ANONYMOUS = "anonymous"
KEY_HEADER = f"{HEADER_PREFIX}key".encode()
_CALLER_SCOPE_KEY = "clara_proxy.caller"  # the name in an ASGI scope
_ANTHROPIC_PATH = "/v1/messages/"
_KEY_PREFIX = api_keys.KEY_PREFIX.encode()
_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key", b"api-key")  # in the order in which they count


class Caller(NamedTuple):
    """The holder of a proxy's key: what owns the originals it stores, the header it was shown in, and the labels.

    `default` are the settings' wishes with the key's name, and with its project before theirs.
    """

    owner_id: str
    header: bytes
    default_options: RequestOptions
    has_budget: bool

    @classmethod
    def from_key(cls, key: ApiKey, header: bytes, default_options: RequestOptions) -> Self:
        """Make one of a key, shown in this header."""
        labelled = replace(default_options, key_name=key.name, project=key.project or default_options.project)
        return cls(key.hash[:32], header, labelled, key.has_budget)


class PresentedKey(NamedTuple):
    """A key of the proxy's, in which header, whether as a password, and the headers that have none in them.

    `key` is None where keys stood only in headers that are not for keys.
    """

    key: str | None
    header: bytes
    is_basic: bool
    headers: RawHeaders


def extract_key(raw_headers: RawHeaders, headers_by_name: Mapping[bytes, bytes]) -> PresentedKey | None:
    """Take the proxy's key out of the headers, given as a list and by name; None when there is none in any of them.

    Whatever header has one in it is dropped, also where keys do not belong.
    """
    # Every request comes by here, so it is quick where there is nothing: `in` takes twice as long for bytes as `find`.
    hidden = headers_by_name.get(_CREDENTIAL_HEADERS[0], b"")[:6].lower() == b"basic " or len(headers_by_name) != len(
        raw_headers
    )
    if not hidden and KEY_HEADER not in headers_by_name and b" ".join(headers_by_name.values()).find(_KEY_PREFIX) < 0:
        return None
    ours = [
        pair
        for pair in raw_headers
        if pair[0] == KEY_HEADER or pair[1].find(_KEY_PREFIX) >= 0 or (hidden and _extract_basic_key(pair))
    ]
    if not ours:
        return None
    found = dict(ours)
    header = next((name for name in (KEY_HEADER, *_CREDENTIAL_HEADERS) if name in found), None)
    kept = [pair for pair in raw_headers if pair not in ours]
    if header is None:
        return PresentedKey(None, b"", is_basic=False, headers=kept)
    password = _extract_basic_key((header, found[header]))
    return PresentedKey(password or _strip_bearer(found[header].decode("latin-1")), header, password is not None, kept)


def _strip_bearer(value: str) -> str:
    return value[7:].strip() if value[:7].lower() == "bearer " else value.strip()


def _extract_basic_key(header: tuple[bytes, bytes]) -> str | None:
    """Return what is a key of the proxy's in HTTP Basic: the password, or the name of those who give no password."""
    name, value = header
    if name != _CREDENTIAL_HEADERS[0] or value[:6].lower() != b"basic ":
        return None
    try:
        pair = base64.b64decode(value[6:].strip(), validate=True).decode("utf-8", "replace")
    except ValueError:
        return None
    user, _, password = pair.partition(":")
    return next((part for part in (password, user) if part.startswith(api_keys.KEY_PREFIX)), None)


def set_caller(scope: Scope, new_caller: Caller) -> None:
    """Write down in the scope who it is that asks."""
    scope[_CALLER_SCOPE_KEY] = new_caller


def get_caller(scope: Scope) -> Caller | None:
    """Return who asks with a key of the proxy's."""
    found = scope.get(_CALLER_SCOPE_KEY)
    return found if isinstance(found, Caller) else None


def has_budget(scope: Scope) -> bool:
    """Say whether what this client uses is limited, so that its bill must be told."""
    known = get_caller(scope)
    return known is not None and known.has_budget


def get_owner_id(scope: Scope) -> str:
    """Return a stable name for the client behind a request: the hash of the key that it shows to us."""
    if (known := get_caller(scope)) is not None:
        return known.owner_id
    told = {name: value for name, value in scope["headers"] if name in _CREDENTIAL_HEADERS}
    key = next((told[name] for name in _CREDENTIAL_HEADERS if told.get(name)), None)
    return ANONYMOUS if key is None else sha256(_strip_bearer(key.decode("latin-1")).encode()).hexdigest()[:32]


def get_default_options(scope: Scope, settings_options: RequestOptions) -> RequestOptions:
    """Return the defaults for whoever asks: those of the settings, labelled with the key if there is one."""
    known = get_caller(scope)
    return settings_options if known is None else known.default_options


def is_anthropic_request(exchange: Exchange) -> bool:
    """Say whether a request, and so the key in it, is for Anthropic: its clients all name the version of its API."""
    return "anthropic-version" in exchange.headers or f"{exchange.scope['path']}/".startswith(_ANTHROPIC_PATH)


def build_upstream_headers(
    exchange: Exchange, settings: Settings, *, is_anthropic: bool, excluded: frozenset[bytes] = frozenset()
) -> list[tuple[str, str]]:
    """Return the headers that go upstream: with the configured key, else with the client's own for it.

    Raises:
        ApiError: 401 when there is neither, and a key of the proxy's stood in their place.
    """
    key, name = (settings.anthropic_api_key, "ANTHROPIC") if is_anthropic else (settings.upstream_api_key, "UPSTREAM")
    known, raw = get_caller(exchange.scope), exchange.raw_headers
    if known is None and not is_anthropic:
        return headers.filter_request_headers(raw, key=key, excluded=excluded)
    shown = {header for header, _ in raw if header in headers.CREDENTIALS}
    if key is None and known is not None and not shown:
        message = (
            f"this proxy has no key for the upstream: set CLARA_{name}_API_KEY where it runs, or send one of your own "
            f"in the usual header and the proxy's in {KEY_HEADER.decode()}"
        )
        raise ApiError(401, message, code="no_upstream_key")
    # Anthropic takes both, and a beta may need the one that the client chose.
    bearer = not is_anthropic or _CREDENTIAL_HEADERS[0] in (shown if known is None else {*shown, known.header})
    return headers.filter_request_headers(raw, key=key, as_bearer=bearer, excluded=excluded)
