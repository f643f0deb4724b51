"""Which proxy is taken on the way to which host."""

from collections.abc import Callable

import pytest

from clara_proxy.config import settings
from clara_proxy.config.outbound_proxy import ProxyResolver, UnusableProxyError, build_loopback_bypass

PROXY = "http://proxy.example:3128"
NAMES = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.build_child_environment():
        if name.lower() in (*NAMES, "request_method"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("spelt", [str.upper, str.lower])
def test_the_environment_names_a_proxy_for_each_scheme(
    monkeypatch: pytest.MonkeyPatch, spelt: Callable[[str], str]
) -> None:
    monkeypatch.setenv(spelt("https_proxy"), PROXY)
    assert ProxyResolver().find_proxy("https", "api.example", 443) == PROXY
    assert ProxyResolver().find_proxy("http", "api.example", 80) is None
    monkeypatch.setenv(spelt("all_proxy"), "http://all.example:1")
    assert ProxyResolver().find_proxy("https", "api.example", 443) == PROXY
    assert ProxyResolver().find_proxy("http", "api.example", 80) == "http://all.example:1"


def test_without_any_there_is_none() -> None:
    assert ProxyResolver().find_proxy("https", "api.example", 443) is None


def test_what_is_set_counts_more_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:1")
    assert ProxyResolver(PROXY).find_proxy("https", "api.example", 443) == PROXY
    assert ProxyResolver(PROXY).find_proxy("http", "api.example", 80) == PROXY
    assert ProxyResolver("none").find_proxy("https", "api.example", 443) is None


def test_an_address_without_a_scheme_is_taken_as_other_clients_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert ProxyResolver().find_proxy("https", "api.example", 443) == PROXY


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_reached_directly(host: str) -> None:
    assert ProxyResolver(PROXY).find_proxy("http", host, 8000) is None


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("api.example", "api.example", True),
        ("example", "api.example", True),
        (".example", "api.example", True),
        ("api.example:8443", "api.example", True),
        ("api.example:9", "api.example", False),
        ("pi.example", "api.example", False),
        ("other.example, API.example", "api.example", True),
        ("*", "api.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "fd12::1", True),
        ("fd12::1", "fd12::1", True),
        ("10.0.0.0/8", "fd12::1", False),
        ("10.0.0.0/8", "api.example", False),
    ],
)
@pytest.mark.parametrize("chosen", [None, PROXY])
def test_what_no_proxy_names_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, listed: str, host: str, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", listed)
    assert ProxyResolver(chosen).find_proxy("https", host, 8443) == (None if direct else PROXY)


@pytest.mark.parametrize(
    "url", ["socks5://u:hunter2@p:1", "http://", "http://:80", "http://u:hunter2@p:port", "http://p:99999", "http://[p"]
)
def test_a_proxy_that_cannot_be_used_is_not_passed_by(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(UnusableProxyError) as caught:
        ProxyResolver().find_proxy("https", "api.example", 443)
    assert "hunter2" not in str(caught.value)
    assert ProxyResolver().find_proxy("https", "localhost", 443) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "127.0.0.1,localhost"), (".corp, 10.0.0.0/8", ".corp, 10.0.0.0/8,127.0.0.1,localhost"), ("*", None)],
)
def test_a_command_of_ours_reaches_this_machine_directly(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str | None
) -> None:
    monkeypatch.setenv("NO_PROXY", before)
    assert build_loopback_bypass() == {}  # nothing is said where no proxy is named
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    assert build_loopback_bypass() == ({} if after is None else {"NO_PROXY": after, "no_proxy": after})
