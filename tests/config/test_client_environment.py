"""What clients here are told: where they would ask, and which key they would show there."""

import pytest

from clara_proxy.config import client_environment

NAMES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_upstreams_are_those_that_clients_would_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_environment.read_client_upstreams() == {}
    monkeypatch.setenv("OPENAI_API_BASE", "http://old/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://claude/")
    assert client_environment.read_client_upstreams() == {
        "upstream_base_url": "http://old/v1",
        "anthropic_base_url": "http://claude/v1",
    }
    monkeypatch.setenv("OPENAI_BASE_URL", "http://new/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "")
    assert client_environment.read_client_upstreams() == {"upstream_base_url": "http://new/v1"}


def test_a_key_is_shown_only_where_it_is_meant_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_environment.read_openai_key(client_environment.OPENAI_DEFAULT_URL) is None
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert client_environment.read_openai_key(f"{client_environment.OPENAI_DEFAULT_URL}/") == "sk"
    assert client_environment.read_openai_key("http://else/v1") is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://else/v1")
    assert client_environment.read_openai_key("http://else/v1") == "sk"
    assert client_environment.read_openai_key(client_environment.OPENAI_DEFAULT_URL) is None


def test_an_address_is_shown_without_what_is_secret_in_it() -> None:
    assert client_environment.redact_url("http://me:hunter2@host:1/v1?key=x#y") == "http://host:1/v1"
