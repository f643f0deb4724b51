"""The way back to an original: for the client that sent it, on every path, and for nobody else."""

import re
from typing import Any

import httpx
import openai
import pytest

from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, tool_chat

MARKER = re.compile(r"GET /v1/retrieve/([0-9a-f]{16})")
MINE = {"authorization": f"Bearer {CLIENT_KEY}"}
ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"


@pytest.fixture
def name(proxy: Proxy, upstream: FaultyUpstream) -> str:
    assert proxy.post(tool_chat(), x_clara_retrieve="url").status_code == 200
    return only_name(upstream)


def only_name(upstream: FaultyUpstream) -> str:
    found = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])
    assert len(found) == 1
    return str(found[0])


def get(proxy: Proxy, name: str, headers: dict[str, str] = MINE, **parameters: str) -> httpx.Response:
    return httpx.get(f"{proxy.url}/v1/retrieve/{name}", headers=headers, params=parameters)


def test_an_original_comes_back_whole(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    heard = len(upstream.requests)
    answer = get(proxy, name, {**MINE, "x-clara-session": "fetches"})
    assert answer.status_code == 200
    assert answer.json() == {"hash": name, "original_content": ORIGINAL}
    assert len(upstream.requests) == heard
    row = proxy.wait_for_row("fetches")
    assert (row.protocol, row.outcome, row.status, row.cost, row.saved_tokens) == ("retrieve", "served", 200, 0.0, 0)
    assert row.fetched_back_tokens > 5000


def test_a_streamed_request_can_be_redeemed_too(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(tool_chat(f"of a stream\n{LOG_TEXT}", stream=True), x_clara_retrieve="url")
    assert get(proxy, only_name(upstream)).json()["original_content"] == f"of a stream\n{ORIGINAL}"


def test_no_name_leaves_for_a_client_that_cannot_fetch(proxy: Proxy, upstream: FaultyUpstream) -> None:
    proxy.post(tool_chat())
    assert "left out" in upstream.last_request.json["messages"][-1]["content"]
    assert "retrieve" not in upstream.last_request.body.decode()


def test_a_part_comes_back_by_lines_and_by_words(proxy: Proxy, name: str) -> None:
    assert get(proxy, name, lines="2-3").json()["original_content"] == "\n".join(LOG_TEXT.split("\n")[1:3])
    found = get(proxy, name, query="disk full").json()["original_content"]
    assert found.endswith("401:2024-01-01 ERROR disk full on /dev/sda1")
    assert len(found) < 1000


@pytest.mark.parametrize("lines", ["0-2", "x", "9-3", "100000"])
def test_lines_that_make_no_sense_are_refused(proxy: Proxy, name: str, lines: str) -> None:
    answer = get(proxy, name, lines=lines)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "lines"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-of-somebody-else"}, {"x-api-key": "other"}])
def test_nobody_else_gets_it(proxy: Proxy, name: str, headers: dict[str, str]) -> None:
    answer = get(proxy, name, headers)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "disk" not in answer.text


def test_the_same_client_may_show_its_key_in_another_header(proxy: Proxy, name: str) -> None:
    assert get(proxy, name, {"x-api-key": CLIENT_KEY}).status_code == 200


@pytest.mark.parametrize("unknown", ["0" * 16, "abc", "0" * 17, "é", "%00"])
def test_an_unknown_name_is_a_404(proxy: Proxy, upstream: FaultyUpstream, unknown: str) -> None:
    assert get(proxy, unknown).status_code == 404
    assert not upstream.requests


def test_a_bad_header_is_refused_here_too(proxy: Proxy, name: str) -> None:
    answer = get(proxy, name, {**MINE, "x-clara-mode": "loud"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-clara-mode"


def test_the_openai_client_redeems_a_marker(proxy: Proxy, upstream: FaultyUpstream) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY) as client:
        chat: Any = tool_chat()
        client.chat.completions.create(**chat, extra_headers={"x-clara-retrieve": "url"})
        answer = client.get(f"/retrieve/{only_name(upstream)}", cast_to=httpx.Response)
    assert answer.json()["original_content"] == ORIGINAL


def test_what_was_fetched_back_is_not_made_shorter_again(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    arguments = f'{{"command": "curl -s $BASE/v1/retrieve/{name}"}}'
    call = {"id": "c2", "type": "function", "function": {"name": "shell", "arguments": arguments}}
    request = tool_chat()
    request["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c2", "content": get(proxy, name).json()["original_content"]},
    ]
    answer = proxy.post(request, x_clara_retrieve="url")
    assert upstream.last_request.json["messages"][-1]["content"] == ORIGINAL
    assert "expansion=1" in answer.headers["x-clara-skipped"]


def test_the_same_text_has_the_same_name_again(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    proxy.post(tool_chat(), x_clara_retrieve="url")
    assert only_name(upstream) == name
