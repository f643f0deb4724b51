"""OpenAI's clients are forwarded to OpenAI's upstream and Anthropic's to Anthropic's, each with its own key."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import Proxy, short_chat

LIST = http_response(b'{"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null}')
ALIAS = {"name": "fast", "litellm": "openai/gpt-4o"}
OPENAI_KEY, ANTHROPIC_KEY = "sk-openai-0123456789", "sk-ant-0123456789"


@pytest.fixture
def anthropic_upstream() -> Iterator[FaultyUpstream]:
    with faulty.run_upstream() as upstream:
        yield upstream


@pytest.fixture(params=[[], [ALIAS]], ids=["plain", "with models of its own"])
def forked_proxy(
    upstream: FaultyUpstream, anthropic_upstream: FaultyUpstream, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Proxy]:
    upstream.respond_with(LIST)
    anthropic_upstream.respond_with(LIST)
    with running.run_proxy(
        upstream.url, tmp_path, anthropic_base_url=f"{anthropic_upstream.url}/v1", models=request.param
    ) as proxy:
        yield proxy


def test_anthropics_clients_reach_only_anthropics_upstream(
    forked_proxy: Proxy, upstream: FaultyUpstream, anthropic_upstream: FaultyUpstream
) -> None:
    with anthropic.Anthropic(base_url=forked_proxy.url, api_key=ANTHROPIC_KEY, max_retries=0) as client:
        assert client.models.list().data == []
        assert client.beta.files.list().data == []
        assert client.messages.batches.list().data == []
    assert [request.request_line.split()[1].split(b"?")[0] for request in anthropic_upstream.requests] == [
        b"/v1/models",
        b"/v1/files",
        b"/v1/messages/batches",
    ]
    credentials = [
        {*request.header_values("x-api-key"), *request.header_values("authorization")}
        for request in anthropic_upstream.requests
    ]
    assert all(keys <= {ANTHROPIC_KEY.encode(), f"Bearer {ANTHROPIC_KEY}".encode()} and keys for keys in credentials)
    assert upstream.requests == []


def test_openais_clients_reach_only_openais_upstream(
    forked_proxy: Proxy, upstream: FaultyUpstream, anthropic_upstream: FaultyUpstream
) -> None:
    with openai.OpenAI(base_url=f"{forked_proxy.url}/v1", api_key=OPENAI_KEY, max_retries=0) as client:
        client.models.list()
        client.files.list()
    assert [request.request_line.split()[1] for request in upstream.requests] == [b"/v1/models", b"/v1/files"]
    assert all(
        request.header_values("authorization") == [f"Bearer {OPENAI_KEY}".encode()] for request in upstream.requests
    )
    assert anthropic_upstream.requests == []


@pytest.mark.parametrize(
    ("path", "status", "variable"),
    [
        ("/v1/v1/messages", 400, "ANTHROPIC_BASE_URL"),  # Claude Code shows no text of a 404
        ("/v1/v1/messages/count_tokens", 400, "ANTHROPIC_BASE_URL"),
        ("/v1/v1/chat/completions", 404, "OPENAI_BASE_URL"),
        ("/v1/v1/models", 404, "OPENAI_BASE_URL"),
        ("/api/v1/messages", 400, "ANTHROPIC_BASE_URL"),
        ("/openai/responses", 404, "OPENAI_BASE_URL"),
    ],
)
def test_a_wrong_base_url_is_reported_with_the_right_variable(
    forked_proxy: Proxy,
    upstream: FaultyUpstream,
    anthropic_upstream: FaultyUpstream,
    path: str,
    status: int,
    variable: str,
) -> None:
    answer = httpx.post(f"{forked_proxy.url}{path}", json={}, headers={"x-api-key": ANTHROPIC_KEY})
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert [name for name in ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL") if name in message] == [variable]
    assert answer.json().get("type") == ("error" if status == 400 else None)
    assert upstream.requests == anthropic_upstream.requests == []


def test_a_base_url_without_v1_works_for_both_apis(
    forked_proxy: Proxy, upstream: FaultyUpstream, anthropic_upstream: FaultyUpstream
) -> None:
    anthropic_headers = {"x-api-key": ANTHROPIC_KEY, "anthropic-version": "2023-06-01"}
    for path in ("/messages", "/messages/count_tokens?beta=true", "/messages/batches"):
        httpx.post(f"{forked_proxy.url}{path}", json=short_chat(max_tokens=9), headers=anthropic_headers)
        assert anthropic_upstream.last_request.request_line == f"POST /v1{path} HTTP/1.1".encode()
    for path in ("/chat/completions", "/responses", "/embeddings", "/completions"):
        headers = {"authorization": f"Bearer {OPENAI_KEY}"}
        httpx.post(f"{forked_proxy.url}{path}", json=short_chat(input="hi"), headers=headers)
        assert upstream.last_request.request_line == f"POST /v1{path} HTTP/1.1".encode()
    assert (len(anthropic_upstream.requests), len(upstream.requests)) == (3, 4)
    row = forked_proxy.wait_for_row(
        httpx.post(f"{forked_proxy.url}/chat/completions", json=short_chat(tools=[{"type": "function"}]))
    )
    assert (row.path, row.protocol) == ("/v1/chat/completions", "chat")


def test_a_list_of_models_leaves_a_row(upstream: FaultyUpstream, tmp_path: Path) -> None:
    upstream.respond_with(LIST)
    with running.run_proxy(upstream.url, tmp_path, models=[ALIAS]) as proxy:
        answer = httpx.get(f"{proxy.url}/v1/models", headers={b"x-clara-user": "Jürgen".encode()})
        row = proxy.wait_for_row(answer)
        refused = httpx.get(f"{proxy.url}/v1/models", headers={"x-clara-loud": "yes"})
        assert (refused.status_code, proxy.wait_for_row(refused).outcome) == (400, "rejected")
    assert [model["id"] for model in answer.json()["data"]] == ["fast"]
    assert (row.protocol, row.outcome, row.status, row.user) == ("models", "served", 200, "Jürgen")
