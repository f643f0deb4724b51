"""Local and foreign hosts and origins are distinguished by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.access.origins import is_foreign_origin, is_local_server, is_loopback, is_trusted_host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.com", "", "localhost.evil.com"]
)
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_local_connections_are_recognised_by_the_server_address() -> None:
    assert [is_local_server(server) for server in ("127.0.0.1", "::1", "/run/clara.sock")] == [True] * 3
    assert [is_local_server(server) for server in ("172.17.0.2", "::ffff:172.17.0.2", "fe80::1", "fe80::1%eth0")] == [
        False
    ] * 4


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8765", "LOCALHOST", "localhost.", "127.0.0.1:8765", "[::1]:8765", "10.1.2.3"),
        *("app.localhost", "mybox:8765", "host.docker.internal:8765"),
    ],
)
def test_trusted_host_names(host: str) -> None:
    assert is_trusted_host(host.encode())


@pytest.mark.parametrize(
    "host",
    [
        *("evil.com", "evil.com:8765", "localhost.evil.com", "127.0.0.1.evil.com", "evil.com.", "127.0.0.1.nip.io"),
        *("", ":8765", "[::1", "[evil]", "\xff.com", "internal.evil.com", "user@evil.com", "localhost@evil.com"),
    ],
)
def test_registrable_host_names_are_not_trusted(host: str) -> None:
    assert not is_trusted_host(host.encode("latin-1"))


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.com", "http://evil.com:8765", "http://127.0.0.1.evil.com", "null", "NULL", "http://"),
        *("http://10.1.2.3", "http://[::1", "HTTPS://EVIL.COM", "http://localhost@evil.com", "http://mybox"),
    ],
)
def test_origins_of_foreign_pages(origin: str) -> None:
    assert is_foreign_origin(origin.encode())


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "http://127.0.0.1:8765", "http://[::1]", "http://app.localhost", "chrome-extension://x"],
)
def test_origins_of_local_pages_and_programs(origin: str) -> None:
    assert not is_foreign_origin(origin.encode())


@given(st.binary(max_size=80))
def test_any_header_value_is_accepted(value: bytes) -> None:
    assert {is_trusted_host(value), is_foreign_origin(value)} <= {True, False}
