"""What stands before every route: who may do what, and how much of it. Bare ASGI, because every request comes by.

Without keys the proxy is for whoever is on this machine, and for whoever reaches it where `CLARA_OPEN` says so. As soon
as there is a key, everything but the signs of life needs one, and what is not the API (figures, dashboard, what
unloads the model) needs an admin's: a path that is not known to be the API is an admin's. The invariants: a key of the
proxy's own gets no further than here, and a refusal leaves a row like everything else.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from math import ceil
from time import time

from ...config.settings import Settings
from ..http import relay, request_options
from ..http.exchange import Exchange, RawHeaders, Receive, Scope, Send
from ..http.request_context import RequestContext
from ..protocols import messages
from ..protocols.api_errors import ApiError
from ..stores import api_keys
from ..stores.api_keys import ApiKey
from ..stores.ledger import Ledger
from . import authentication, origins
from .authentication import Caller
from .keyring import InvalidKeyError, Keyring
from .limits import RateWindow

App = Callable[[Scope, Receive, Send], Awaitable[None]]
HEALTH_PATHS = frozenset({"/livez", "/readyz", "/health"})
_CLARA_PATHS = frozenset({"/compress", "/embed"})
_STATISTICS_PATHS = frozenset({"/v1/savings"})  # of everybody, and so an admin's
_LOCAL_PATHS = frozenset({"/v1/compress", "/v1/retrieve", *_CLARA_PATHS})  # ask no upstream anything
_CREATE_KEY_HINT = "whoever runs this proxy makes one with `clara-proxy keys create NAME`"
_MAX_ANONYMOUS_ROWS = 60  # rows a minute for those who show no key that holds: they must not fill the disk
_MAX_PATH_LENGTH = 200  # characters of a path that a refusal writes down


class AccessMiddleware:
    """Lets requests in to `inside`, or answers with 401, 403 or 429; the rows of `metered` paths tell the bill."""

    def __init__(
        self, app: App, settings: Settings, keyring: Keyring, ledger: Ledger, metered_paths: Collection[str]
    ) -> None:
        self._app = app
        self._settings = settings
        self._keyring = keyring
        self._write_row = ledger.write
        self._default_options = request_options.build_default_options(settings)
        self._metered_paths = frozenset(metered_paths) | _LOCAL_PATHS
        self._is_exposed = not origins.is_loopback(settings.host)
        self._anonymous_window = RateWindow()
        self._callers: dict[tuple[str, bytes], Caller] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or refuse it."""
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
        meter = self._keyring.limits.start_request(key, time())
        try:
            await self._app(scope, receive, send)
        finally:
            meter.running_requests -= 1

    async def _pass_unchecked(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # there is nothing here to talk to that way
        else:
            await self._app(scope, receive, send)

    def _authorize(self, scope: Scope, path: str) -> ApiKey | None:
        """Judge a request; return the key whose limits it counts against, if any. Raises ApiError for who stays out."""
        headers: RawHeaders = list(scope["headers"])
        named = dict(headers)
        shown = authentication.extract_key(headers, named)
        _check_address(scope, path, named)
        admins = _is_admin_path(path)
        if shown is not None:
            scope["headers"] = shown.headers
        if shown is None or shown.key is None:
            if self._keyring.requires_key:
                raise _key_required_error(admins, "this proxy needs a key of its own, as a bearer or in x-clara-key")
            self._check_anonymous(scope, named, admins)
            return None
        key = self._find_key(shown.key, admins)
        authentication.set_caller(
            scope, self._get_caller(key, shown.header)
        )  # whoever is refused from here on is known by name
        if admins:
            _check_admin(scope, named, shown, key)
            return None
        if shown.is_basic:
            raise _key_required_error(admins, "a password is for pages; the API takes a bearer")
        self._check_limits(scope, path, key)
        return key

    def _check_anonymous(self, scope: Scope, named: Mapping[bytes, bytes], admins: bool) -> None:
        """Judge a request without a key while there is none: it must come from here, and from no stranger's page."""
        server = scope.get("server")
        local = server is None or origins.is_local_server(server[0])
        if admins and (self._is_exposed or not local):
            raise _key_required_error(
                admins, f"this needs an admin's key where others can reach the proxy: {_CREATE_KEY_HINT} --admin"
            )
        if self._settings.open and not admins:
            return
        if not local:
            remedy = f"{_CREATE_KEY_HINT}, or sets CLARA_OPEN=true to let everybody in"
            raise _key_required_error(
                admins, f"this proxy can be reached from elsewhere, and has no keys yet: {remedy}"
            )
        if _is_foreign_page(named):
            remedy = f"{_CREATE_KEY_HINT}, or sets CLARA_OPEN=true"
            raise ApiError(403, f"a page from elsewhere may not use this proxy: {remedy}", code="foreign_origin")

    def _find_key(self, shown: str, admins: bool) -> ApiKey:
        try:
            return self._keyring.find_key(shown)
        except InvalidKeyError as error:
            raise _key_required_error(admins, str(error), code="invalid_api_key") from None

    def _get_caller(self, key: ApiKey, header: bytes) -> Caller:
        """Return the holder of a key; made once, as labels are copied."""
        known = self._callers.get((key.id, header))
        if known is None:
            known = self._callers[key.id, header] = Caller.from_key(key, header, self._default_options)
        return known

    def _check_limits(self, scope: Scope, path: str, key: ApiKey) -> None:
        if key.has_budget and scope["method"] in ("POST", "PUT", "PATCH") and not self._is_metered(path):
            message = f"the key {key.name} has a budget, and nobody tells what {path} costs; use a key without one"
            raise ApiError(403, message, code="unmetered")
        refusal = self._keyring.limits.find_refusal(key, time())
        if refusal is not None:
            wait = {"retry-after": str(max(1, ceil(refusal.retry_after)))}
            # The clients of OpenAI and Anthropic ask again in a second or two, unless they are told not to.
            more = {"x-should-retry": "false"} if refusal.is_budget_spent else {}
            code = "insufficient_quota" if refusal.is_budget_spent else "rate_limit_exceeded"
            raise ApiError(429, refusal.message, code=code, headers=wait | more)

    def _is_metered(self, path: str) -> bool:
        return path in self._metered_paths or path.startswith("/v1/retrieve/")

    async def _reject(self, exchange: Exchange, error: ApiError) -> None:
        path = str(exchange.scope["path"])
        visit = RequestContext(
            path[:_MAX_PATH_LENGTH],
            authentication.get_default_options(exchange.scope, self._default_options),
            protocol="gate",
        )
        try:
            await relay.send_error(
                exchange, visit, error, messages.ADAPTER if authentication.is_anthropic_request(exchange) else None
            )
        finally:
            if visit.options.key_name or self._may_record_rejection():
                self._write_row(visit.build_row())

    def _may_record_rejection(self) -> bool:
        now = time()
        if self._anonymous_window.get_wait_seconds(_MAX_ANONYMOUS_ROWS, now):
            return False
        self._anonymous_window.record_start(now)
        return True


def _check_admin(scope: Scope, named: Mapping[bytes, bytes], shown: authentication.PresentedKey, key: ApiKey) -> None:
    """Judge whether a key is good for what is an admin's, and shown as it may be."""
    # Browsers send passwords along with whatever any page makes them ask; what only looks tells that page nothing.
    if shown.is_basic and scope["method"] not in ("GET", "HEAD") and _is_cross_origin(named):
        raise ApiError(403, "a page from elsewhere may not use this password", code="foreign_origin")
    if not key.admin:
        message = f"this is for admins' keys, and {key.name} is none; the API is beneath /v1"
        if shown.is_basic:
            raise _key_required_error(for_admin=True, message=message, code="not_allowed")
        raise ApiError(403, message, code="not_allowed")


def _is_admin_path(path: str) -> bool:
    return path in _STATISTICS_PATHS or not (path.startswith("/v1/") or path in _CLARA_PATHS)


def _check_address(scope: Scope, path: str, named: Mapping[bytes, bytes]) -> None:
    """Refuse what must go no further, whoever asks: keys where they are written down, and questions about CORS."""
    query = scope.get("query_string")
    if api_keys.KEY_PREFIX in path or (query and api_keys.KEY_PREFIX.encode() in query):
        scope["path"] = path.partition(api_keys.KEY_PREFIX)[0]  # as far as it may be written down
        raise ApiError(400, "a key has no place in an address: send it in a header", code="key_in_address")
    if scope["method"] == "OPTIONS" and b"access-control-request-method" in named:
        raise ApiError(403, "pages of other origins have no part in this proxy", code="cors_closed")


def _is_foreign_page(headers: Mapping[bytes, bytes]) -> bool:
    host, origin = headers.get(b"host"), headers.get(b"origin")
    return (host is not None and not origins.is_trusted_host(host)) or (
        origin is not None and origins.is_foreign_origin(origin)
    )


def _is_cross_origin(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a browser says that another origin's page asks."""
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
    elsewhere = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    return elsewhere or site not in (b"none", b"same-origin")


def _key_required_error(for_admin: bool, message: str, code: str = "key_needed") -> ApiError:
    """Return a refusal that says which kind of key is wanted: browsers ask for a password, then."""
    scheme = 'Basic realm="clara-proxy", charset="UTF-8"' if for_admin else 'Bearer realm="clara-proxy"'
    return ApiError(401, message, code=code, headers={"www-authenticate": scheme})
