"""A key of the proxy is removed from the request, in any header, and identifies the caller."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.access import authentication
from clara_proxy.proxy.access.authentication import Caller, PresentedKey
from clara_proxy.proxy.http import request_options
from clara_proxy.proxy.http.exchange import Exchange, Message, Scope
from clara_proxy.proxy.http.request_headers import RequestHeaders
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, ApiKey, create_key

PROXY_KEY = KEY_PREFIX + "0123456789abcdef"
CLIENT_KEY = b"Bearer sk-client-1"


def extract(raw: list[tuple[bytes, bytes]]) -> PresentedKey | None:
    return authentication.extract_key(RequestHeaders(tuple(raw)))


def basic(pair: str) -> bytes:
    return b"Basic " + base64.b64encode(pair.encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {PROXY_KEY}"),
        ("authorization", f"bearer  {PROXY_KEY} "),
        ("authorization", PROXY_KEY),
        ("x-api-key", PROXY_KEY),
        ("api-key", PROXY_KEY),
        ("x-clara-key", PROXY_KEY),
    ],
)
def test_a_key_is_found_in_the_headers_of_clients(name: str, value: str) -> None:
    result = extract([(b"accept", b"*/*"), (name.encode(), value.encode())])
    assert result == (PROXY_KEY, name.encode(), False, [(b"accept", b"*/*")])


@pytest.mark.parametrize("pair", [f"me:{PROXY_KEY}", f":{PROXY_KEY}", f"{PROXY_KEY}:", PROXY_KEY])
def test_a_key_may_be_a_basic_password(pair: str) -> None:
    assert extract([(b"authorization", basic(pair))]) == (PROXY_KEY, b"authorization", True, [])


@pytest.mark.parametrize(
    "value", [basic("me:secret"), b"Basic ???", b"Basic", b"Basic \xff", CLIENT_KEY, b"", b"Bearer"]
)
def test_other_credentials_stay(value: bytes) -> None:
    assert extract([(b"authorization", value)]) is None
    assert extract([(b"authorization", value)] * 2) is None


@pytest.mark.parametrize("first", [CLIENT_KEY, basic("a:b")])
@pytest.mark.parametrize(
    "second",
    [
        f"Bearer {PROXY_KEY}".encode(),
        basic(f":{PROXY_KEY}"),
        basic(f":{PROXY_KEY}").upper()[:6] + basic(f":{PROXY_KEY}")[6:],
    ],
)
def test_a_key_is_found_in_a_repeated_header(first: bytes, second: bytes) -> None:
    for pair in ((first, second), (second, first)):
        assert extract([(b"authorization", value) for value in pair]) in (
            (PROXY_KEY, b"authorization", False, [(b"authorization", first)]),
            (PROXY_KEY, b"authorization", True, [(b"authorization", first)]),
        )


def test_x_clara_key_takes_precedence_and_keeps_the_clients_key() -> None:
    headers = [(b"authorization", CLIENT_KEY), (b"x-clara-key", PROXY_KEY.encode()), (b"x-clara-mode", b"off")]
    assert extract(headers) == (PROXY_KEY, b"x-clara-key", False, [headers[0], headers[2]])


def test_any_value_of_x_clara_key_is_a_key() -> None:
    assert extract([(b"x-clara-key", b"nonsense")]) == ("nonsense", b"x-clara-key", False, [])


def test_a_key_in_another_header_is_dropped_and_ignored() -> None:
    assert extract([(b"cookie", f"a={PROXY_KEY}".encode()), (b"x-a", b"1")]) == (None, b"", False, [(b"x-a", b"1")])


names = st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-clara-key", b"cookie", b"x-other"])
values = st.sampled_from(
    [PROXY_KEY, f"Bearer {PROXY_KEY}", f"x{PROXY_KEY}y", basic(f"a:{PROXY_KEY}").decode(), "plain", CLIENT_KEY.decode()]
)


@given(st.lists(st.tuples(names, values.map(str.encode)), max_size=8))
def test_no_remaining_header_contains_a_key(headers: list[tuple[bytes, bytes]]) -> None:
    presented = extract(headers)
    rest = headers if presented is None else presented.headers
    for name, value in rest:
        assert PROXY_KEY.encode() not in value
        assert name != b"x-clara-key"
        if name == b"authorization":
            assert value != basic(f"a:{PROXY_KEY}")
    assert rest == [pair for pair in headers if pair in rest]  # in their order, with repetitions
    has_key = presented is not None and presented.key is not None
    assert has_key == any(_has_key(name, value) for name, value in headers)


def _has_key(name: bytes, value: bytes) -> bool:
    if name == b"authorization" and value == basic(f"a:{PROXY_KEY}"):
        return True
    return name == b"x-clara-key" or (
        name in (b"authorization", b"x-api-key", b"api-key") and PROXY_KEY.encode() in value
    )


def scope(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "method": "POST", "path": "/v1/x", "headers": list(headers)}


def authenticate(request_scope: Scope, key: ApiKey, header: bytes = b"authorization") -> None:
    authentication.set_caller(
        request_scope, Caller.from_key(key, header, request_options.build_default_options(Settings()))
    )


def test_the_owner_is_the_hash_of_the_key_in_any_header() -> None:
    bearer, bare = scope((b"authorization", b"Bearer k1")), scope((b"x-api-key", b"k1"))
    assert (
        authentication.get_owner_id(bearer)
        == authentication.get_owner_id(bare)
        != authentication.get_owner_id(scope((b"api-key", b"k2")))
    )
    assert authentication.get_owner_id(scope()) == authentication.ANONYMOUS
    assert "k1" not in authentication.get_owner_id(bearer)


def test_the_owner_is_the_proxys_key_if_there_is_one() -> None:
    text, key = create_key("alice", project="search", created=1.0)
    request_scope = scope((b"authorization", CLIENT_KEY))
    before = authentication.get_owner_id(request_scope)
    authenticate(request_scope, key)
    assert (
        authentication.get_owner_id(request_scope)
        == authentication.get_owner_id(scope((b"x-api-key", text.encode())))
        != before
    )


def test_labels_come_from_the_key_and_no_header_sets_the_key_name(tmp_path: Path) -> None:
    default = request_options.build_default_options(Settings(data_dir=tmp_path, project="default"))
    for project, expected in (("search", "search"), ("", "default")):
        request_scope = scope()
        authentication.set_caller(
            request_scope,
            Caller.from_key(create_key("alice", project=project, created=1.0)[1], b"authorization", default),
        )
        labelled = authentication.get_default_options(request_scope, default)
        assert (labelled.key_name, labelled.project) == ("alice", expected)
        assert request_options.parse_headers({"x-clara-project": "mine"}, labelled).project == "mine"
    assert authentication.get_default_options(scope(), default) is default
    with pytest.raises(ApiError):
        request_options.parse_headers({"x-clara-key": "root"}, default)


def exchange(request_scope: Scope) -> Exchange:
    async def receive(_: Message | None = None) -> Message:
        raise AssertionError

    async def send(_: Message) -> None:
        raise AssertionError

    return Exchange(request_scope, receive, send)


@pytest.mark.parametrize("anthropic", [False, True])
def test_a_missing_upstream_key_is_an_error_with_a_remedy(tmp_path: Path, anthropic: bool) -> None:
    keyless = Settings(data_dir=tmp_path)
    request_scope = scope((b"accept", b"*/*"))
    assert authentication.build_upstream_headers(exchange(request_scope), keyless, is_anthropic=anthropic) == (
        ("accept", "*/*"),
    )
    authenticate(request_scope, create_key("alice", created=1.0)[1])
    with pytest.raises(ApiError, match=f"CLARA_{'ANTHROPIC' if anthropic else 'UPSTREAM'}_API_KEY") as error:
        authentication.build_upstream_headers(exchange(request_scope), keyless, is_anthropic=anthropic)
    assert (error.value.status, error.value.code) == (401, "no_upstream_key")
    request_scope["headers"] = [*request_scope["headers"], (b"x-api-key", b"k1")]
    assert ("x-api-key", "k1") in authentication.build_upstream_headers(
        exchange(request_scope), keyless, is_anthropic=anthropic
    )


def test_each_upstream_gets_its_key_in_the_clients_header(tmp_path: Path) -> None:
    both = Settings(data_dir=tmp_path, upstream_api_key="for-openai", anthropic_api_key="for-anthropic")
    for headers in (
        [(b"authorization", CLIENT_KEY)],
        [(b"x-api-key", b"k1")],
        [(b"authorization", CLIENT_KEY), (b"api-key", b"k")],
    ):
        request_scope = exchange(scope(*headers))
        assert authentication.build_upstream_headers(request_scope, both, is_anthropic=False) == (
            ("authorization", "Bearer for-openai"),
        )
        bearer = headers[0][0] == b"authorization"
        expected = ("authorization", "Bearer for-anthropic") if bearer else ("x-api-key", "for-anthropic")
        assert authentication.build_upstream_headers(request_scope, both, is_anthropic=True) == (expected,)
    for header, bearer in ((b"authorization", True), (b"x-api-key", False), (b"x-clara-key", False)):
        keyed = scope()
        authenticate(keyed, create_key("alice", created=1.0)[1], header)
        expected = ("authorization", "Bearer for-anthropic") if bearer else ("x-api-key", "for-anthropic")
        assert authentication.build_upstream_headers(exchange(keyed), both, is_anthropic=True) == (expected,)
