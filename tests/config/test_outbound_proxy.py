"""The choice of the proxy for a host."""

from collections.abc import Callable

import pytest

from clara_proxy.config import settings
from clara_proxy.config.outbound_proxy import ProxyResolver, UnusableProxyError, build_loopback_bypass

PROXY = "http://proxy.example:3128"
NAMES = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.build_child_environment():
        if name.lower() in (*NAMES, "request_method"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("change_case", [str.upper, str.lower])
def test_the_environment_sets_a_proxy_for_each_scheme(
    monkeypatch: pytest.MonkeyPatch, change_case: Callable[[str], str]
) -> None:
    monkeypatch.setenv(change_case("https_proxy"), PROXY)
    assert ProxyResolver().find_proxy("https", "api.example", 443) == PROXY
    assert ProxyResolver().find_proxy("http", "api.example", 80) is None
    monkeypatch.setenv(change_case("all_proxy"), "http://all.example:1")
    assert ProxyResolver().find_proxy("https", "api.example", 443) == PROXY
    assert ProxyResolver().find_proxy("http", "api.example", 80) == "http://all.example:1"


def test_no_variable_means_no_proxy() -> None:
    assert ProxyResolver().find_proxy("https", "api.example", 443) is None


def test_the_setting_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:1")
    assert ProxyResolver(PROXY).find_proxy("https", "api.example", 443) == PROXY
    assert ProxyResolver(PROXY).find_proxy("http", "api.example", 80) == PROXY
    assert ProxyResolver("none").find_proxy("https", "api.example", 443) is None


def test_an_address_without_a_scheme_is_an_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert ProxyResolver().find_proxy("https", "api.example", 443) == PROXY


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_reached_directly(host: str) -> None:
    assert ProxyResolver(PROXY).find_proxy("http", host, 8000) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
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
@pytest.mark.parametrize("override", [None, PROXY])
def test_hosts_in_no_proxy_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, override: str | None, no_proxy: str, host: str, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert ProxyResolver(override).find_proxy("https", host, 8443) == (None if direct else PROXY)


@pytest.mark.parametrize(
    "url", ["socks5://u:hunter2@p:1", "http://", "http://:80", "http://u:hunter2@p:port", "http://p:99999", "http://[p"]
)
def test_an_unusable_proxy_is_an_error_and_is_not_bypassed(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(UnusableProxyError) as caught:
        ProxyResolver().find_proxy("https", "api.example", 443)
    assert "hunter2" not in str(caught.value)
    assert ProxyResolver().find_proxy("https", "localhost", 443) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "127.0.0.1,localhost"), (".corp, 10.0.0.0/8", ".corp, 10.0.0.0/8,127.0.0.1,localhost"), ("*", None)],
)
def test_a_child_process_reaches_this_machine_directly(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str | None
) -> None:
    monkeypatch.setenv("NO_PROXY", before)
    assert build_loopback_bypass() == {}  # without a proxy, no variable is needed
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    assert build_loopback_bypass() == ({} if after is None else {"NO_PROXY": after, "no_proxy": after})
