"""`/v1/retrieve` returns originals only to the client that sent them; `/v1/savings` returns totals."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, run_proxy, tool_chat

MARKER = re.compile(r"GET /v1/retrieve/([0-9a-f]{16})")
KEY_HEADERS = {"authorization": f"Bearer {CLIENT_KEY}"}
ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"


@pytest.fixture
def name(proxy: Proxy, upstream: FaultyUpstream) -> str:
    assert proxy.post(tool_chat(), x_clara_retrieve="url").status_code == 200
    return get_only_hash(upstream)


def get_only_hash(upstream: FaultyUpstream) -> str:
    hashes = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])
    assert len(hashes) == 1
    return str(hashes[0])


def fetch(proxy: Proxy, name: str, headers: dict[str, str] = KEY_HEADERS, **parameters: str) -> httpx.Response:
    return httpx.get(f"{proxy.url}/v1/retrieve/{name}", headers=headers, params=parameters)


def test_a_whole_original_is_fetched_back(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    request_count = len(upstream.requests)
    answer = fetch(proxy, name, {**KEY_HEADERS, "x-clara-session": "fetches"})
    assert answer.status_code == 200
    assert answer.json() == {"hash": name, "original_content": ORIGINAL}
    assert len(upstream.requests) == request_count
    row = proxy.wait_for_row("fetches")
    assert (row.protocol, row.outcome, row.status, row.cost, row.saved_tokens) == ("retrieve", "served", 200, 0.0, 0)
    assert row.fetched_back_tokens > 5000


def test_the_original_of_a_streamed_request_is_fetched_back(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(tool_chat(f"streamed\n{LOG_TEXT}", stream=True), x_clara_retrieve="url")
    assert fetch(proxy, get_only_hash(upstream)).json()["original_content"] == f"streamed\n{ORIGINAL}"


def test_markers_have_no_hash_for_a_client_that_cannot_fetch(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(tool_chat())
    assert "left out" in upstream.last_request.json["messages"][-1]["content"]
    assert "retrieve" not in upstream.last_request.body.decode()


def test_an_excerpt_is_selected_by_lines_or_by_words(proxy: Proxy, name: str) -> None:
    assert fetch(proxy, name, lines="2-3").json()["original_content"] == "\n".join(LOG_TEXT.split("\n")[1:3])
    excerpt = fetch(proxy, name, query="disk full").json()["original_content"]
    assert excerpt.endswith("401:2024-01-01 ERROR disk full on /dev/sda1")
    assert len(excerpt) < 1000


@pytest.mark.parametrize("lines", ["0-2", "x", "9-3", "100000"])
def test_invalid_lines_are_rejected(proxy: Proxy, name: str, lines: str) -> None:
    answer = fetch(proxy, name, lines=lines)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "lines"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-of-another-client"}, {"x-api-key": "other"}])
def test_other_clients_get_a_404(proxy: Proxy, name: str, headers: dict[str, str]) -> None:
    answer = fetch(proxy, name, headers)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "disk" not in answer.text


def test_the_client_may_send_its_key_in_another_header(proxy: Proxy, name: str) -> None:
    assert fetch(proxy, name, {"x-api-key": CLIENT_KEY}).status_code == 200


@pytest.mark.parametrize("unknown", ["0" * 16, "abc", "0" * 17, "é", "%00"])
def test_an_unknown_hash_is_a_404(proxy: Proxy, upstream: FaultyUpstream, unknown: str) -> None:
    assert fetch(proxy, unknown).status_code == 404
    assert not upstream.requests


def test_an_invalid_header_is_rejected(proxy: Proxy, name: str) -> None:
    answer = fetch(proxy, name, {**KEY_HEADERS, "x-clara-mode": "loud"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-clara-mode"


def test_the_openai_client_fetches_an_original_back(proxy: Proxy, upstream: FaultyUpstream) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY) as client:
        chat: Any = tool_chat()
        client.chat.completions.create(**chat, extra_headers={"x-clara-retrieve": "url"})
        answer = client.get(f"/retrieve/{get_only_hash(upstream)}", cast_to=httpx.Response)
    assert answer.json()["original_content"] == ORIGINAL


def test_fetched_text_is_not_compressed_again(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    arguments = f'{{"command": "curl -s $BASE/v1/retrieve/{name}"}}'
    call = {"id": "c2", "type": "function", "function": {"name": "shell", "arguments": arguments}}
    request = tool_chat()
    request["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c2", "content": fetch(proxy, name).json()["original_content"]},
    ]
    answer = proxy.post(request, x_clara_retrieve="url")
    assert upstream.last_request.json["messages"][-1]["content"] == ORIGINAL
    assert "expansion=1" in answer.headers["x-clara-skipped"]


def test_the_same_text_has_the_same_hash(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    proxy.post(tool_chat(), x_clara_retrieve="url")
    assert get_only_hash(upstream) == name


# /v1/savings


@pytest.fixture(scope="module")
def savings_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder: Path = tmp_path_factory.mktemp("savings")
    with run_proxy("http://127.0.0.1:1", folder) as running:
        yield running


def test_savings_are_grouped(savings_proxy: Proxy) -> None:
    answer = httpx.get(f"{savings_proxy.url}/v1/savings", params={"since": "1h", "by": "model"})
    assert answer.status_code == 200
    assert answer.json()["by"] == "model"


@pytest.mark.parametrize(
    ("query", "param"), [("format=csv", "format"), ("by=all&foo=1&bar=2", "bar, foo"), ("x" * 5_000, "xxxx")]
)
def test_unknown_query_parameters_of_savings_are_rejected(savings_proxy: Proxy, query: str, param: str) -> None:
    answer = httpx.get(f"{savings_proxy.url}/v1/savings?{query}")
    assert answer.status_code == 400
    assert param in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid_query"
    assert param.startswith(answer.json()["error"]["param"][:4])
    assert len(answer.text) < 1_000
