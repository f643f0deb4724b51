"""An upstream that refuses to be asked for the usage of a stream answers as it would without the proxy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.tests import running
from clara_proxy.tests.faulty import Connection, FaultyUpstream, http_response, respond_normally
from clara_proxy.tests.running import LOG_TEXT, Proxy, short_chat, tool_chat

USAGE_OPTIONS = {"include_usage": True}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]
REFUSALS = {
    "FastAPI": ("422 Unprocessable Entity", b'{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"]}]}'),
    "OpenAI": ("400 Bad Request", b'{"error":{"message":"Unrecognized request argument supplied: stream_options"}}'),
    "without a reason": ("400 Bad Request", b""),
}


@pytest.fixture
def new_proxy(upstream: FaultyUpstream, tmp_path: Path) -> Iterator[Proxy]:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        yield proxy


def refuse_usage(upstream: FaultyUpstream, status: str, body: bytes) -> None:
    async def script(connection: Connection) -> None:
        if "stream_options" in connection.request.json:
            await connection.send(http_response(body, status=status))
        else:
            await respond_normally(connection)

    upstream.script = script


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("tools", [{}, {"tools": TOOLS}], ids=["no tools", "tools"])
def test_a_refusing_upstream_is_asked_once(
    new_proxy: Proxy, upstream: FaultyUpstream, name: str, tools: dict[str, Any]
) -> None:
    refuse_usage(upstream, *REFUSALS[name])
    answers = [new_proxy.post(request) for request in (tool_chat(stream=True, **tools), short_chat(stream=True))]
    for answer in answers:
        assert answer.status_code == 200
        assert b"the disk" in answer.content
        assert b" is full" in answer.content
        assert new_proxy.wait_for_row(answer).outcome == "ok"
    asked, repeated, second = (request.json for request in upstream.requests)
    assert asked.pop("stream_options") == USAGE_OPTIONS
    assert asked == repeated
    assert len(repeated["messages"][2]["content"]) < len(LOG_TEXT) / 2
    assert second == short_chat(stream=True)


def test_another_error_is_returned_and_not_remembered(new_proxy: Proxy, upstream: FaultyUpstream) -> None:
    error = orjson.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}})
    upstream.respond_with(http_response(error, status="400 Bad Request"))
    answer = new_proxy.post(short_chat(stream=True))
    assert (answer.status_code, answer.content) == (400, error)
    assert new_proxy.wait_for_row(answer).outcome == "upstream_error"
    upstream.reset()
    assert new_proxy.post(short_chat(stream=True)).status_code == 200
    assert upstream.last_request.json["stream_options"] == USAGE_OPTIONS


def test_options_of_the_client_are_never_dropped(new_proxy: Proxy, upstream: FaultyUpstream) -> None:
    status, body = REFUSALS["OpenAI"]
    refuse_usage(upstream, status, body)
    request = {"stream_options": USAGE_OPTIONS, **short_chat(stream=True)}
    answer = new_proxy.post(orjson.dumps(request))
    assert (answer.status_code, answer.content) == (400, body)
    assert len(upstream.requests) == 1
