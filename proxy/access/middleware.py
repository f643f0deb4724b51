"""ASGI middleware: authentication, authorization and rate limits.

While there are no keys, only this machine has access, or every machine with `CLARA_OPEN`. As soon as there is a key,
every request except health checks needs one. All paths outside the API (statistics, dashboard, `/unload`, unknown
paths) need an admin key. Keys of the proxy are removed from requests here, and each rejection leaves a ledger row.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from time import monotonic
from urllib.parse import unquote

from ...compression import memo
from ...config.settings import Settings
from ..http import relay, request_options
from ..http.exchange import JSON_HEADERS, Exchange, Receive, Scope, Send
from ..http.request_context import RequestContext
from ..http.request_headers import RequestHeaders, find_headers, replace_headers
from ..http.upstream import VIA_NAME
from ..protocols import messages
from ..protocols.api_errors import ApiError
from ..stores import api_keys
from ..stores.api_keys import ApiKey
from ..stores.ledger import Ledger
from . import authentication, limit_errors, origins
from .authentication import Caller
from .keyring import InvalidKeyError, Keyring
from .limits import RateWindow
from .reservations import Reservation

App = Callable[[Scope, Receive, Send], Awaitable[None]]
HEALTH_PATHS = frozenset({"/livez", "/readyz", "/health"})
_CLARA_PATHS = frozenset({"/compress", "/embed", "/clara/jobs"})
_STATISTICS_PATHS = frozenset({"/v1/savings"})  # they show all clients, so they need an admin key
_LOCAL_PATHS = frozenset({"/v1/compress", "/v1/retrieve", *_CLARA_PATHS})  # send nothing upstream
_FREE_METHODS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_CREATE_KEY_HINT = "create one on the proxy's machine with `clara-proxy keys create NAME`"
_MAX_ANONYMOUS_ROWS = (
    60  # ledger rows a minute for rejected requests without a valid key, so that they cannot fill the disk
)
_OWN_NAME = VIA_NAME.encode()
_MAX_DECODINGS = 4  # of percent-encoding in a URL
_MAX_PATH_LENGTH = 200  # characters of a rejected path in the ledger


class AccessMiddleware:
    """Passes requests on to `app`, or rejects them with 401, 403 or 429; the cost of `metered_paths` is known."""

    def __init__(
        self, app: App, settings: Settings, keyring: Keyring, ledger: Ledger, metered_paths: Collection[str]
    ) -> None:
        self._app = app
        self._settings = settings
        self._keyring = keyring
        self._write_row = ledger.write
        self._default_options = request_options.build_default_options(settings)
        self._metered_paths = frozenset(metered_paths) | _LOCAL_PATHS
        self._allowed_origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._is_exposed = not origins.is_loopback(settings.host)
        self._anonymous_window = RateWindow()
        self._callers: dict[tuple[str, bytes], Caller] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or reject it."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in HEALTH_PATHS:
            await self._pass_unchecked(scope, receive, send)
            return
        try:
            key = self._authorize(scope, path)
        except ApiError as error:
            await self._reject(Exchange(scope, receive, send), error)
            return
        if key is None:
            await self._app(scope, receive, send)
            return
        limits = self._keyring.limits
        try:
            reservation = Reservation(limits, key, *await limits.admit(key), self._settings.window)
        except ApiError as error:
            await self._reject(Exchange(scope, receive, send), error)
            return
        if key.has_budget:
            authentication.set_reservation(scope, reservation)
        try:
            await self._app(scope, receive, send)
        finally:
            reservation.close()

    async def _pass_unchecked(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _reject_websocket(scope, send)
        else:
            await self._app(scope, receive, send)

    def _authorize(self, scope: Scope, path: str) -> ApiKey | None:
        """Check a request; return the key whose limits it counts against, if any.

        Raises:
            ApiError: 400, 401 or 403 for a request that is rejected.
        """
        headers = find_headers(scope)
        headers_by_name = headers.by_name
        presented = headers.derive(authentication.extract_key)
        _check_address(scope, path, headers_by_name)
        for_admin = _is_admin_path(path)
        if presented is not None:
            replace_headers(scope, presented.headers)
        if presented is None or presented.key is None:
            if self._keyring.requires_key or self._settings.require_keys:
                message = "this proxy needs one of its own API keys, as a bearer token or in x-clara-key"
                raise _key_required_error(for_admin, message)
            self._check_anonymous(scope, headers, for_admin)
            return None
        key = self._find_key(presented.key, for_admin)
        # From here on, the ledger row of a rejection has the key's name.
        authentication.set_caller(scope, self._get_caller(key, presented.header))
        memo.owner.set(key.hash)
        if for_admin:
            _check_admin(scope, headers_by_name, presented, key)
            return None
        if presented.is_basic:
            message = "HTTP Basic is only accepted for the dashboard; send the key as a bearer token"
            raise _key_required_error(for_admin, message)
        # A program may write the name of a method in any way, so the harmless ones are listed.
        if key.has_budget and scope["method"] not in _FREE_METHODS and not self._is_metered(path):
            raise limit_errors.unmetered_error(key, f"the cost of {path} is unknown", "use a key without a budget")
        return key if key.has_limits else None

    def _check_anonymous(self, scope: Scope, headers: RequestHeaders, for_admin: bool) -> None:
        """Check a request while no key exists: it must come from this machine, and not from another site's page."""
        server = scope.get("server")
        is_local = server is None or origins.is_local_server(server[0])
        if for_admin and (self._is_exposed or not is_local):
            message = (
                f"other machines can reach this proxy, so this path needs an admin key: {_CREATE_KEY_HINT} --admin"
            )
            raise _key_required_error(for_admin, message)
        if not is_local and (for_admin or not self._settings.open):
            remedy = f"{_CREATE_KEY_HINT}, or set CLARA_OPEN=true to allow requests without a key"
            raise _key_required_error(for_admin, f"requests from other machines need an API key: {remedy}")
        is_open = self._settings.open and not for_admin
        if headers.derive(_is_from_foreign_page, self._allowed_origins, is_open):
            remedy = f"add the origin to CLARA_CORS_ORIGINS, or {_CREATE_KEY_HINT}"
            message = f"requests from web pages of other origins are not allowed without an API key: {remedy}"
            raise ApiError(403, message, code="foreign_origin")

    def _find_key(self, presented_key: str, for_admin: bool) -> ApiKey:
        try:
            return self._keyring.find_key(presented_key)
        except InvalidKeyError as error:
            raise _key_required_error(for_admin, str(error), code="invalid_api_key") from None

    def _get_caller(self, key: ApiKey, header: bytes) -> Caller:
        """Return the caller for a key, from a cache."""
        caller = self._callers.get((key.id, header))
        if caller is None:
            caller = self._callers[key.id, header] = Caller.from_key(key, header, self._default_options)
        return caller

    def _is_metered(self, path: str) -> bool:
        return path in self._metered_paths or path.startswith("/v1/retrieve/")

    async def _reject(self, exchange: Exchange, error: ApiError) -> None:
        path = str(exchange.scope["path"])
        options = authentication.get_default_options(exchange.scope, self._default_options)
        context = RequestContext(path[:_MAX_PATH_LENGTH], options, protocol="gate")
        adapter = messages.ADAPTER if authentication.is_anthropic_request(exchange) else None
        try:
            await relay.send_error(exchange, context, error, adapter)
        finally:
            if context.options.key_name or self._may_record_rejection():
                self._write_row(context.build_row())

    def _may_record_rejection(self) -> bool:
        now = monotonic()
        if self._anonymous_window.get_wait_seconds(_MAX_ANONYMOUS_ROWS, now):
            return False
        self._anonymous_window.record_start(now)
        return True


def _is_from_foreign_page(headers: RequestHeaders, allowed: frozenset[bytes], is_open: bool) -> bool:
    return origins.is_foreign_page(headers.by_name, allowed, is_open=is_open)


async def _reject_websocket(scope: Scope, send: Send) -> None:
    """Reject a WebSocket with a 426, after which clients such as Codex send the request over HTTP at once."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})  # the server makes this a 403
        return
    error = ApiError(426, "this proxy has no WebSocket endpoints; send the request over HTTP", code="no_websocket")
    body = error.encode()
    headers = [*JSON_HEADERS, (b"content-length", b"%d" % len(body)), (b"upgrade", b"HTTP/1.1")]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def _check_admin(
    scope: Scope,
    headers_by_name: Mapping[bytes, bytes],
    presented: authentication.PresentedKey,
    key: ApiKey,
) -> None:
    """Check a request to an admin path: the key must be an admin key, and no other site's page may use it."""
    # Browsers attach Basic passwords to any page's requests, but a page cannot read a cross-origin GET.
    if presented.is_basic and scope["method"] not in ("GET", "HEAD") and _is_cross_origin(headers_by_name):
        raise ApiError(403, "cross-origin requests must not use this password", code="foreign_origin")
    if not key.admin:
        message = f"this path needs an admin key, and {key.name!r} is not an admin key; the API is below /v1"
        if presented.is_basic:
            raise _key_required_error(for_admin=True, message=message, code="not_allowed")
        raise ApiError(403, message, code="not_allowed")


def _is_admin_path(path: str) -> bool:
    return path in _STATISTICS_PATHS or not (path.startswith("/v1/") or path in _CLARA_PATHS)


def _check_address(scope: Scope, path: str, headers_by_name: Mapping[bytes, bytes]) -> None:
    """Reject a key in the URL, since servers log URLs, CORS preflight requests, and this proxy's own requests."""
    query = scope.get("query_string")
    if _has_key(path) or (query and _has_key(query.decode("latin-1"))):
        scope["path"] = path.partition(api_keys.KEY_PREFIX)[0] if api_keys.KEY_PREFIX in path else _strip_path(path)
        raise ApiError(400, "API keys are not accepted in the URL; send the key in a header", code="key_in_address")
    if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers_by_name:
        raise ApiError(403, "cross-origin requests are not allowed", code="cors_closed")
    if b"via" in headers_by_name and any(name == b"via" and _OWN_NAME in value for name, value in scope["headers"]):
        message = "the proxy sends requests to itself; check CLARA_UPSTREAM_BASE_URL and CLARA_ANTHROPIC_BASE_URL"
        raise ApiError(508, message, code="loop_detected", headers={"x-should-retry": "false"})


def _has_key(text: str) -> bool:
    """Return True if a part of a URL contains a key of the proxy, percent-encoded or not, even several times."""
    for _ in range(_MAX_DECODINGS):
        if api_keys.KEY_PREFIX in text:
            return True
        if "%" not in text:
            return False
        text = unquote(text)
    return api_keys.KEY_PREFIX in text


def _strip_path(path: str) -> str:
    """Return the part of a path before the first percent sign, for the ledger, which must not store a key."""
    return path.partition("%")[0]


def _is_cross_origin(headers: Mapping[bytes, bytes]) -> bool:
    """Return True if a browser's headers show that another origin's page sent the request."""
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
    is_other_host = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    return is_other_host or site not in (b"none", b"same-origin")


def _key_required_error(for_admin: bool, message: str, code: str = "key_needed") -> ApiError:
    """Return a 401 that names the accepted scheme; for admin paths, browsers then ask for a password."""
    scheme = 'Basic realm="clara-proxy", charset="UTF-8"' if for_admin else 'Bearer realm="clara-proxy"'
    return ApiError(401, message, code=code, headers={"www-authenticate": scheme})
