"""The clients' environment: their upstreams, and the key for each."""

import pytest

from clara_proxy.config import client_environment

NAMES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY")


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_upstreams_are_those_of_the_clients_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_environment.read_client_upstreams() == {}
    monkeypatch.setenv("OPENAI_API_BASE", "http://old/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://claude/")
    assert client_environment.read_client_upstreams() == {
        "upstream_base_url": "http://old/v1",
        "anthropic_base_url": "http://claude/v1",
    }
    monkeypatch.setenv("OPENAI_BASE_URL", "http://new/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://claude/v1/")  # as the AI SDK wants it
    assert client_environment.read_client_upstreams()["anthropic_base_url"] == "http://claude/v1"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "")
    assert client_environment.read_client_upstreams() == {"upstream_base_url": "http://new/v1"}


def test_the_key_is_returned_only_for_its_own_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_environment.read_openai_key(client_environment.OPENAI_DEFAULT_URL) is None
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert client_environment.read_openai_key(f"{client_environment.OPENAI_DEFAULT_URL}/") == "sk"
    assert client_environment.read_openai_key("http://else/v1") is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://else/v1")
    assert client_environment.read_openai_key("http://else/v1") == "sk"
    assert client_environment.read_openai_key(client_environment.OPENAI_DEFAULT_URL) is None


def test_a_redacted_url_has_no_credentials() -> None:
    assert client_environment.redact_url("http://me:hunter2@host:1/v1?key=x#y") == "http://host:1/v1"
