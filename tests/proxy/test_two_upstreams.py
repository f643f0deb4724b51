"""OpenAI's clients are forwarded to OpenAI's upstream and Anthropic's to Anthropic's, each with its own key."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import Proxy

LIST = http_response(b'{"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null}')
ALIAS = {"name": "fast", "litellm": "openai/gpt-4o"}
OPENAIS, ANTHROPICS = "sk-openai-0123456789", "sk-ant-0123456789"


@pytest.fixture
def other() -> Iterator[FaultyUpstream]:
    with faulty.run_upstream() as upstream:
        yield upstream


@pytest.fixture(params=[[], [ALIAS]], ids=["plain", "with models of its own"])
def between(
    upstream: FaultyUpstream, other: FaultyUpstream, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Proxy]:
    upstream.respond_with(LIST)
    other.respond_with(LIST)
    with running.run_proxy(upstream.url, tmp_path, anthropic_base_url=f"{other.url}/v1", models=request.param) as proxy:
        yield proxy


def test_anthropics_clients_reach_anthropics_upstream_alone(
    between: Proxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    with anthropic.Anthropic(base_url=between.url, api_key=ANTHROPICS, max_retries=0) as client:
        assert client.models.list().data == []
        assert client.beta.files.list().data == []
        assert client.messages.batches.list().data == []
    assert [heard.request_line.split()[1].split(b"?")[0] for heard in other.requests] == [
        b"/v1/models",
        b"/v1/files",
        b"/v1/messages/batches",
    ]
    shown = [{*heard.header_values("x-api-key"), *heard.header_values("authorization")} for heard in other.requests]
    assert all(keys <= {ANTHROPICS.encode(), f"Bearer {ANTHROPICS}".encode()} and keys for keys in shown)
    assert upstream.requests == []


def test_openais_clients_reach_openais_upstream_alone(
    between: Proxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    with openai.OpenAI(base_url=f"{between.url}/v1", api_key=OPENAIS, max_retries=0) as client:
        client.models.list()
        client.files.list()
    assert [heard.request_line.split()[1] for heard in upstream.requests] == [b"/v1/models", b"/v1/files"]
    assert all(heard.header_values("authorization") == [f"Bearer {OPENAIS}".encode()] for heard in upstream.requests)
    assert other.requests == []


@pytest.mark.parametrize("path", ["/v1/v1/messages", "/v1/v1/chat/completions"])
def test_a_base_url_with_one_v1_too_many_is_told_so(
    between: Proxy, upstream: FaultyUpstream, other: FaultyUpstream, path: str
) -> None:
    answer = httpx.post(f"{between.url}{path}", json={}, headers={"x-api-key": ANTHROPICS})
    assert answer.status_code == 404
    assert "ANTHROPIC_BASE_URL" in answer.json()["error"]["message"]
    assert upstream.requests == other.requests == []


def test_a_list_of_models_leaves_a_row(upstream: FaultyUpstream, tmp_path: Path) -> None:
    upstream.respond_with(LIST)
    with running.run_proxy(upstream.url, tmp_path, models=[ALIAS]) as proxy:
        answer = httpx.get(f"{proxy.url}/v1/models", headers={b"x-clara-user": "Jürgen".encode()})
        row = proxy.wait_for_row(answer)
        refused = httpx.get(f"{proxy.url}/v1/models", headers={"x-clara-loud": "yes"})
        assert (refused.status_code, proxy.wait_for_row(refused).outcome) == (400, "rejected")
    assert [model["id"] for model in answer.json()["data"]] == ["fast"]
    assert (row.protocol, row.outcome, row.status, row.user) == ("models", "served", 200, "Jürgen")
