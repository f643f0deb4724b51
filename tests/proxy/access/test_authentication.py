"""A key of the proxy's own is taken out of a request, wherever it stands, and tells who asks."""

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
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, ApiKey, create_key

OURS = KEY_PREFIX + "0123456789abcdef"
THEIRS = b"Bearer sk-client-1"


def shown(raw: list[tuple[bytes, bytes]]) -> PresentedKey | None:
    return authentication.extract_key(raw, dict(raw))


def basic(pair: str) -> bytes:
    return b"Basic " + base64.b64encode(pair.encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {OURS}"),
        ("authorization", f"bearer  {OURS} "),
        ("authorization", OURS),
        ("x-api-key", OURS),
        ("api-key", OURS),
        ("x-clara-key", OURS),
    ],
)
def test_a_key_is_found_where_clients_put_theirs(name: str, value: str) -> None:
    found = shown([(b"accept", b"*/*"), (name.encode(), value.encode())])
    assert found == (OURS, name.encode(), False, [(b"accept", b"*/*")])


@pytest.mark.parametrize("pair", [f"me:{OURS}", f":{OURS}", f"{OURS}:", OURS])
def test_a_key_is_a_password_too(pair: str) -> None:
    assert shown([(b"authorization", basic(pair))]) == (OURS, b"authorization", True, [])


@pytest.mark.parametrize("value", [basic("me:secret"), b"Basic ???", b"Basic", b"Basic \xff", THEIRS, b"", b"Bearer"])
def test_what_is_not_ours_stays(value: bytes) -> None:
    assert shown([(b"authorization", value)]) is None
    assert shown([(b"authorization", value)] * 2) is None


@pytest.mark.parametrize("first", [THEIRS, basic("a:b")])
@pytest.mark.parametrize(
    "second", [f"Bearer {OURS}".encode(), basic(f":{OURS}"), basic(f":{OURS}").upper()[:6] + basic(f":{OURS}")[6:]]
)
def test_a_key_is_found_among_headers_that_come_twice(first: bytes, second: bytes) -> None:
    for one, two in ((first, second), (second, first)):
        assert shown([(b"authorization", one), (b"authorization", two)]) in (
            (OURS, b"authorization", False, [(b"authorization", first)]),
            (OURS, b"authorization", True, [(b"authorization", first)]),
        )


def test_our_own_header_comes_first_and_leaves_the_clients_key_where_it_is() -> None:
    headers = [(b"authorization", THEIRS), (b"x-clara-key", OURS.encode()), (b"x-clara-mode", b"off")]
    assert shown(headers) == (OURS, b"x-clara-key", False, [headers[0], headers[2]])


def test_what_stands_in_our_header_is_taken_for_a_key_whatever_it_is() -> None:
    assert shown([(b"x-clara-key", b"nonsense")]) == ("nonsense", b"x-clara-key", False, [])


def test_a_key_where_none_belongs_goes_nowhere_and_counts_for_nothing() -> None:
    assert shown([(b"cookie", f"a={OURS}".encode()), (b"x-a", b"1")]) == (None, b"", False, [(b"x-a", b"1")])


names = st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-clara-key", b"cookie", b"x-other"])
values = st.sampled_from([OURS, f"Bearer {OURS}", f"x{OURS}y", basic(f"a:{OURS}").decode(), "plain", THEIRS.decode()])


@given(st.lists(st.tuples(names, values.map(str.encode)), max_size=8))
def test_no_header_that_is_kept_has_a_key_in_it(headers: list[tuple[bytes, bytes]]) -> None:
    found = shown(headers)
    rest = headers if found is None else found.headers
    for name, value in rest:
        assert OURS.encode() not in value
        assert name != b"x-clara-key"
        if name == b"authorization":
            assert value != basic(f"a:{OURS}")
    assert rest == [one for one in headers if one in rest]  # in their order, as often as they came
    shows_one = found is not None and found.key is not None
    assert shows_one == any(_counts(name, value) for name, value in headers)


def _counts(name: bytes, value: bytes) -> bool:
    if name == b"authorization" and value == basic(f"a:{OURS}"):
        return True
    return name == b"x-clara-key" or (name in (b"authorization", b"x-api-key", b"api-key") and OURS.encode() in value)


def scope(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "method": "POST", "path": "/v1/x", "headers": list(headers)}


def enter(asked: Scope, key: ApiKey, header: bytes = b"authorization") -> None:
    authentication.set_caller(asked, Caller.from_key(key, header, request_options.build_default_options(Settings())))


def test_an_owner_is_the_hash_of_what_is_shown_however_it_is_shown() -> None:
    bearer, bare = scope((b"authorization", b"Bearer k1")), scope((b"x-api-key", b"k1"))
    assert (
        authentication.get_owner_id(bearer)
        == authentication.get_owner_id(bare)
        != authentication.get_owner_id(scope((b"api-key", b"k2")))
    )
    assert authentication.get_owner_id(scope()) == authentication.ANONYMOUS
    assert "k1" not in authentication.get_owner_id(bearer)


def test_the_owner_is_the_proxys_key_where_there_is_one() -> None:
    text, key = create_key("alice", project="search", created=1.0)
    asked = scope((b"authorization", THEIRS))
    before = authentication.get_owner_id(asked)
    enter(asked, key)
    assert (
        authentication.get_owner_id(asked)
        == authentication.get_owner_id(scope((b"x-api-key", text.encode())))
        != before
    )


def test_labels_are_the_keys_and_no_header_can_say_them(tmp_path: Path) -> None:
    default = request_options.build_default_options(Settings(data_dir=tmp_path, project="house"))
    for project, wanted in (("search", "search"), ("", "house")):
        asked = scope()
        authentication.set_caller(
            asked, Caller.from_key(create_key("alice", project=project, created=1.0)[1], b"authorization", default)
        )
        labelled = authentication.get_default_options(asked, default)
        assert (labelled.key_name, labelled.project) == ("alice", wanted)
        assert request_options.parse_headers({"x-clara-project": "mine"}, labelled).project == "mine"
    assert authentication.get_default_options(scope(), default) is default
    with pytest.raises(ApiError):
        request_options.parse_headers({"x-clara-key": "root"}, default)


def exchange(asked: Scope) -> Exchange:
    async def nothing(_: Message | None = None) -> Message:
        raise AssertionError

    async def drop(_: Message) -> None:
        raise AssertionError

    return Exchange(asked, nothing, drop)


@pytest.mark.parametrize("anthropic", [False, True])
def test_without_any_key_for_the_upstream_it_is_said_what_to_do(tmp_path: Path, anthropic: bool) -> None:
    none = Settings(data_dir=tmp_path)
    asked = scope((b"accept", b"*/*"))
    assert authentication.build_upstream_headers(exchange(asked), none, is_anthropic=anthropic) == [("accept", "*/*")]
    enter(asked, create_key("alice", created=1.0)[1])
    with pytest.raises(ApiError, match=f"CLARA_{'ANTHROPIC' if anthropic else 'UPSTREAM'}_API_KEY") as error:
        authentication.build_upstream_headers(exchange(asked), none, is_anthropic=anthropic)
    assert (error.value.status, error.value.code) == (401, "no_upstream_key")
    asked["headers"].append((b"x-api-key", b"k1"))
    assert ("x-api-key", "k1") in authentication.build_upstream_headers(exchange(asked), none, is_anthropic=anthropic)


def test_each_upstream_gets_its_own_key_in_the_header_that_the_client_chose(tmp_path: Path) -> None:
    both = Settings(data_dir=tmp_path, upstream_api_key="for-openai", anthropic_api_key="for-anthropic")
    for headers in (
        [(b"authorization", THEIRS)],
        [(b"x-api-key", b"k1")],
        [(b"authorization", THEIRS), (b"api-key", b"k")],
    ):
        asked = exchange(scope(*headers))
        assert authentication.build_upstream_headers(asked, both, is_anthropic=False) == [
            ("authorization", "Bearer for-openai")
        ]
        bearer = headers[0][0] == b"authorization"
        wanted = ("authorization", "Bearer for-anthropic") if bearer else ("x-api-key", "for-anthropic")
        assert authentication.build_upstream_headers(asked, both, is_anthropic=True) == [wanted]
    for header, bearer in ((b"authorization", True), (b"x-api-key", False), (b"x-clara-key", False)):
        keyed = scope()
        enter(keyed, create_key("alice", created=1.0)[1], header)
        wanted = ("authorization", "Bearer for-anthropic") if bearer else ("x-api-key", "for-anthropic")
        assert authentication.build_upstream_headers(exchange(keyed), both, is_anthropic=True) == [wanted]
