"""`GET /v1/models` as clients use it to check a key."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import orjson
import pytest

from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import TIMEOUT, Proxy

ALIAS = {"name": "fast", "litellm": "openai/gpt-4o"}
WRONG_KEY = {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}


@pytest.fixture(scope="module")
def listing(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("models"), models=[ALIAS]) as proxy:
        yield proxy


def list_models(proxy: Proxy, **headers: str) -> httpx.Response:
    return httpx.get(f"{proxy.url}/v1/models", headers=headers, timeout=TIMEOUT)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "429 Too Many Requests"])
def test_a_refused_key_is_reported(listing: Proxy, upstream: FaultyUpstream, status: str) -> None:
    body = orjson.dumps(WRONG_KEY)
    upstream.respond_with(http_response(body, "retry-after: 7", status=status))
    answer = list_models(listing, authorization="Bearer wrong")
    assert (answer.status_code, answer.content) == (int(status[:3]), body)
    assert answer.headers["retry-after"] == "7"
    row = listing.wait_for_row(answer)
    assert (row.status, row.outcome) == (answer.status_code, "upstream_error")


def test_the_openai_client_raises_for_a_wrong_key(listing: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_with(http_response(orjson.dumps(WRONG_KEY), status="401 Unauthorized"))
    with (
        openai.OpenAI(base_url=f"{listing.url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError, match="Incorrect API key"),
    ):
        client.models.list()


@pytest.mark.parametrize(
    ("status", "body"),
    [("401 Unauthorized", WRONG_KEY), ("404 Not Found", {}), ("500 Internal Server Error", {}), ("200 OK", [])],
)
def test_the_own_models_are_listed_without_an_upstream(
    listing: Proxy, upstream: FaultyUpstream, status: str, body: Any
) -> None:
    """Local models need no key: a client without one sees them."""
    upstream.respond_with(http_response(orjson.dumps(body), status=status))
    answer = list_models(listing)
    assert (answer.status_code, [model["id"] for model in answer.json()["data"]]) == (200, ["fast"])


def test_an_own_model_is_described_here_and_another_one_upstream(listing: Proxy, upstream: FaultyUpstream) -> None:
    with openai.OpenAI(base_url=f"{listing.url}/v1", api_key="k") as client:
        assert client.models.retrieve("fast").owned_by == "clara-proxy"
        assert not upstream.requests
        body = {"id": "openai/gpt-5", "object": "model", "created": 1, "owned_by": "openai"}
        upstream.respond_with(http_response(orjson.dumps(body)))
        assert client.models.retrieve("openai/gpt-5").owned_by == "openai"
    deleted = httpx.delete(f"{listing.url}/v1/models/ft-1", timeout=TIMEOUT)
    assert deleted.status_code == 200
    assert [request.request_line.split()[0] for request in upstream.requests] == [b"GET", b"DELETE"]
