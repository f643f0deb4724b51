"""A request for a local model never leaves the machine (invariant: private)."""

import gzip
import io
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, TIMEOUT, Proxy, short_chat

JSON_PATHS = ["/v1/embeddings", "/v1/completions", "/v1/rerank", "/v1/moderations", "/v1/audio/speech", "/v1/batches"]
PROTOCOL_PATHS = ["/v1/messages", "/v1/messages/count_tokens"]
LOCAL_PATHS = ["/v1/chat/completions", "/v1/responses"]


def build_request(path: str, model: str) -> dict[str, Any]:
    if path == "/v1/chat/completions" or path.startswith("/v1/messages"):
        return {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "secret"}]}
    return {"input": "secret", "model": model}


@pytest.mark.parametrize("path", JSON_PATHS + PROTOCOL_PATHS)
@pytest.mark.parametrize("model", ["clara", "clara-16"])
def test_a_local_model_is_refused_on_other_paths(proxy: Proxy, upstream: FaultyUpstream, path: str, model: str) -> None:
    answer = proxy.post(build_request(path, model), path)
    assert answer.status_code == 400
    assert "/v1/chat/completions" in answer.json()["error"]["message"]
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status) == ("rejected", 400)
    assert not upstream.requests


@pytest.mark.parametrize("path", LOCAL_PATHS)
@pytest.mark.parametrize("model", ["clara", "clara-16"])
def test_a_local_model_that_is_not_installed_is_an_error(
    proxy: Proxy, upstream: FaultyUpstream, path: str, model: str
) -> None:
    answer = proxy.post(build_request(path, model), path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status) == ("failed", 503)
    assert not upstream.requests


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize("how", ["spaced", "escaped", "gzip", "chunked", "no content type"])
def test_a_local_model_is_recognised_however_the_body_is_sent(
    proxy: Proxy, upstream: FaultyUpstream, path: str, how: str
) -> None:
    body = orjson.dumps(build_request(path, "clara"))
    headers = {"authorization": f"Bearer {CLIENT_KEY}", "content-type": "application/json"}
    content: Any = body
    if how == "spaced":
        content = b'\n { "model" : "clara" , "input" : "secret" }'
    elif how == "escaped":
        content = body.replace(b'"clara"', b'"\\u0063lara"')
    elif how == "gzip":
        content, headers["content-encoding"] = gzip.compress(body), "gzip"
    elif how == "chunked":
        content = iter([b"  ", body[:5], body[5:20], body[20:]])
    else:
        del headers["content-type"]
    answer = httpx.post(proxy.url + path, content=content, headers=headers, timeout=TIMEOUT)
    assert answer.status_code == (503 if path in LOCAL_PATHS else 400)
    assert not upstream.requests


def test_other_models_are_forwarded_unchanged(proxy: Proxy, upstream: FaultyUpstream) -> None:
    for body in (
        b'{ "model":"text-embedding-3", "input": "who is clara?"}',
        b'{"model":"clara-voyant","input":"x"}',
        b'{"model":["clara"]}',
        b'{"clara": ',
        b"[1, 2]",
        b"clara",
        b"",
        orjson.dumps(short_chat(input="x" * 3_000_000)),
    ):
        assert proxy.post(body, "/v1/embeddings").status_code == 200
        assert upstream.last_request.body == body


def test_an_uploaded_file_is_streamed(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upload = {"file": ("notes.jsonl", io.BytesIO(b'{"model": "clara"}'))}
    answer = httpx.post(f"{proxy.url}/v1/files", files=upload, data={"purpose": "batch"}, timeout=TIMEOUT)
    assert answer.status_code == 200
    assert b'{"model": "clara"}' in upstream.last_request.body
