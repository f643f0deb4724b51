"""URLs and headers of the next hop."""

from pathlib import Path

import httpx
import pytest

from clara_proxy.proxy.http import headers
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, Proxy, short_chat

AZURE = "https://name.openai.azure.com/openai/v1"


@pytest.mark.parametrize(
    ("base_url", "query", "expected"),
    [
        (AZURE, b"", f"{AZURE}/models"),
        (f"{AZURE}/", b"a=1", f"{AZURE}/models?a=1"),
        (f"{AZURE}?api-version=preview", b"", f"{AZURE}/models?api-version=preview"),
        (f"{AZURE}/?api-version=preview", b"limit=2", f"{AZURE}/models?api-version=preview&limit=2"),
        (f"{AZURE}?api-version=preview&x=1", b"api-version=v1", f"{AZURE}/models?x=1&api-version=v1"),
        (f"{AZURE}?", b"a=1", f"{AZURE}/models?a=1"),
        (f"{AZURE}?code=a%2Fb%3D", b"", f"{AZURE}/models?code=a%2Fb%3D"),
    ],
)
def test_the_query_of_a_base_url_is_kept(base_url: str, query: bytes, expected: str) -> None:
    assert headers.build_upstream_url(base_url, {"path": "/v1/models", "query_string": query}) == expected


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/models"])
def test_a_base_url_with_a_query_works_on_every_path(upstream: FaultyUpstream, tmp_path: Path, path: str) -> None:
    base_url = f"{upstream.url}/v1?api-version=preview"
    with running.run_proxy(upstream.url, tmp_path, upstream_base_url=base_url, anthropic_base_url=base_url) as proxy:
        httpx.request("GET" if path == "/v1/models" else "POST", f"{proxy.url}{path}", json=short_chat())
    assert upstream.last_request.request_line.split()[1] == f"{path}?api-version=preview".encode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
@pytest.mark.parametrize("value", ["Jürgen".encode(), "Jürgen".encode("latin-1")])
def test_a_header_may_be_utf_8_or_latin_1(proxy: Proxy, upstream: FaultyUpstream, path: str, value: bytes) -> None:
    request_headers = {b"authorization": f"Bearer {CLIENT_KEY}".encode(), b"x-title": value}
    assert httpx.post(proxy.url + path, json=short_chat(), headers=request_headers).status_code == 200
    assert upstream.last_request.header_values("x-title") == ["Jürgen".encode()]
