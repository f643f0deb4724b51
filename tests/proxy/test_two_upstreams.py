"""OpenAI's clients are forwarded to OpenAI's upstream and Anthropic's to Anthropic's, each with its own key."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import Faulty, response
from clara_proxy.tests.running import Proxy

LIST = response(b'{"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null}')
ALIAS = {"name": "fast", "litellm": "openai/gpt-4o"}
OPENAIS, ANTHROPICS = "sk-openai-0123456789", "sk-ant-0123456789"


@pytest.fixture
def other() -> Iterator[Faulty]:
    with faulty.running() as upstream:
        yield upstream


@pytest.fixture(params=[[], [ALIAS]], ids=["plain", "with models of its own"])
def between(upstream: Faulty, other: Faulty, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    upstream.says(LIST)
    other.says(LIST)
    with running.proxy(upstream.url, tmp_path, anthropic_base_url=f"{other.url}/v1", models=request.param) as proxy:
        yield proxy


def test_anthropics_clients_reach_anthropics_upstream_alone(between: Proxy, upstream: Faulty, other: Faulty) -> None:
    with anthropic.Anthropic(base_url=between.url, api_key=ANTHROPICS, max_retries=0) as client:
        assert client.models.list().data == []
        assert client.beta.files.list().data == []
        assert client.messages.batches.list().data == []
    assert [heard.line.split()[1].split(b"?")[0] for heard in other.heard] == [
        b"/v1/models",
        b"/v1/files",
        b"/v1/messages/batches",
    ]
    shown = [{*heard.all("x-api-key"), *heard.all("authorization")} for heard in other.heard]
    assert all(keys <= {ANTHROPICS.encode(), f"Bearer {ANTHROPICS}".encode()} and keys for keys in shown)
    assert upstream.heard == []


def test_openais_clients_reach_openais_upstream_alone(between: Proxy, upstream: Faulty, other: Faulty) -> None:
    with openai.OpenAI(base_url=f"{between.url}/v1", api_key=OPENAIS, max_retries=0) as client:
        client.models.list()
        client.files.list()
    assert [heard.line.split()[1] for heard in upstream.heard] == [b"/v1/models", b"/v1/files"]
    assert all(heard.all("authorization") == [f"Bearer {OPENAIS}".encode()] for heard in upstream.heard)
    assert other.heard == []


@pytest.mark.parametrize("path", ["/v1/v1/messages", "/v1/v1/chat/completions"])
def test_a_base_url_with_one_v1_too_many_is_told_so(between: Proxy, upstream: Faulty, other: Faulty, path: str) -> None:
    answer = httpx.post(f"{between.url}{path}", json={}, headers={"x-api-key": ANTHROPICS})
    assert answer.status_code == 404
    assert "ANTHROPIC_BASE_URL" in answer.json()["error"]["message"]
    assert upstream.heard == other.heard == []


def test_a_list_of_models_leaves_a_row(upstream: Faulty, tmp_path: Path) -> None:
    upstream.says(LIST)
    with running.proxy(upstream.url, tmp_path, models=[ALIAS]) as proxy:
        answer = httpx.get(f"{proxy.url}/v1/models", headers={b"x-clara-user": "Jürgen".encode()})
        row = proxy.row(answer)
        refused = httpx.get(f"{proxy.url}/v1/models", headers={"x-clara-loud": "yes"})
        assert (refused.status_code, proxy.row(refused).outcome) == (400, "rejected")
    assert [model["id"] for model in answer.json()["data"]] == ["fast"]
    assert (row.protocol, row.outcome, row.status, row.user) == ("models", "served", 200, "Jürgen")
