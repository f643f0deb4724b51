"""`GET /v1/retrieve`: a client, and no other, fetches its originals back."""

import re
from typing import Any

import httpx
import openai
import pytest

from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, tool_chat

MARKER = re.compile(r"GET /v1/retrieve/([0-9a-f]{16})")
CLIENT_HEADERS = {"authorization": f"Bearer {CLIENT_KEY}"}
ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"


@pytest.fixture
def name(proxy: Proxy, upstream: FaultyUpstream) -> str:
    assert proxy.post(tool_chat(), x_clara_retrieve="url").status_code == 200
    return find_only_name(upstream)


def find_only_name(upstream: FaultyUpstream) -> str:
    names = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])
    assert len(names) == 1
    return str(names[0])


def fetch(proxy: Proxy, name: str, headers: dict[str, str] = CLIENT_HEADERS, **parameters: str) -> httpx.Response:
    return httpx.get(f"{proxy.url}/v1/retrieve/{name}", headers=headers, params=parameters)


def test_an_original_is_returned_whole(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    request_count = len(upstream.requests)
    answer = fetch(proxy, name, {**CLIENT_HEADERS, "x-clara-session": "fetches"})
    assert answer.status_code == 200
    assert answer.json() == {"hash": name, "original_content": ORIGINAL}
    assert len(upstream.requests) == request_count
    row = proxy.wait_for_row("fetches")
    assert (row.protocol, row.outcome, row.status, row.cost, row.saved_tokens) == ("retrieve", "served", 200, 0.0, 0)
    assert row.fetched_back_tokens > 5000


def test_originals_of_streamed_requests_are_returned(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(tool_chat(f"of a stream\n{LOG_TEXT}", stream=True), x_clara_retrieve="url")
    assert fetch(proxy, find_only_name(upstream)).json()["original_content"] == f"of a stream\n{ORIGINAL}"


def test_markers_have_no_name_for_clients_that_cannot_fetch(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(tool_chat())
    assert "left out" in upstream.last_request.json["messages"][-1]["content"]
    assert "retrieve" not in upstream.last_request.body.decode()


def test_an_excerpt_is_returned_by_lines_and_by_query(proxy: Proxy, name: str) -> None:
    assert fetch(proxy, name, lines="2-3").json()["original_content"] == "\n".join(LOG_TEXT.split("\n")[1:3])
    excerpt = fetch(proxy, name, query="disk full").json()["original_content"]
    assert excerpt.endswith("401:2024-01-01 ERROR disk full on /dev/sda1")
    assert len(excerpt) < 1000


@pytest.mark.parametrize("lines", ["0-2", "x", "9-3", "100000"])
def test_invalid_line_ranges_are_rejected(proxy: Proxy, name: str, lines: str) -> None:
    answer = fetch(proxy, name, lines=lines)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "lines"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-of-somebody-else"}, {"x-api-key": "other"}])
def test_other_clients_get_404(proxy: Proxy, name: str, headers: dict[str, str]) -> None:
    answer = fetch(proxy, name, headers)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "disk" not in answer.text


def test_the_key_may_be_in_another_header(proxy: Proxy, name: str) -> None:
    assert fetch(proxy, name, {"x-api-key": CLIENT_KEY}).status_code == 200


@pytest.mark.parametrize("unknown", ["0" * 16, "abc", "0" * 17, "é", "%00"])
def test_an_unknown_name_is_a_404(proxy: Proxy, upstream: FaultyUpstream, unknown: str) -> None:
    assert fetch(proxy, unknown).status_code == 404
    assert not upstream.requests


def test_invalid_headers_are_rejected(proxy: Proxy, name: str) -> None:
    answer = fetch(proxy, name, {**CLIENT_HEADERS, "x-clara-mode": "loud"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-clara-mode"


def test_the_openai_client_fetches_an_original(proxy: Proxy, upstream: FaultyUpstream) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY) as client:
        chat: Any = tool_chat()
        client.chat.completions.create(**chat, extra_headers={"x-clara-retrieve": "url"})
        answer = client.get(f"/retrieve/{find_only_name(upstream)}", cast_to=httpx.Response)
    assert answer.json()["original_content"] == ORIGINAL


def test_fetched_originals_are_not_compressed_again(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
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


def test_the_same_text_keeps_its_name(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    proxy.post(tool_chat(), x_clara_retrieve="url")
    assert find_only_name(upstream) == name
