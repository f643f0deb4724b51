"""The request log: its fields, and no content at any level and in any format."""

import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.config import log_setup
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.watch.observers import attach_observers
from clara_proxy.proxy.watch.request_log import LOGGED_COLUMNS, build_log_fields
from clara_proxy.tests import running
from clara_proxy.tests.faulty import Connection, FaultyUpstream, completion, completion_chunk, http_response, sse_event
from clara_proxy.tests.running import LOG_TEXT, short_chat, tool_chat

KEY, LABEL, CONTENT, ANSWER = "sk-canary-key-77", "canary-label-77", "canary-content-77", "canary-answer-77"
LEVELS = ("debug", "info", "warning", "error")


@pytest.fixture(autouse=True)
def restore_logger() -> Generator[None]:
    """Restore the logger of the package after each test."""
    logger = logging.getLogger(log_setup.LOGGER_NAME)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def send_requests(upstream: FaultyUpstream, folder: Path, **options: Any) -> list[httpx.Response]:
    """Send successful and failing requests, with a canary in every text that a client chooses."""
    labels = {f"x_clara_{name}": LABEL for name in ("session", "user", "project", "tag_team", "query")}
    headers: dict[str, str] = {"authorization": f"Bearer {KEY}", "x_api_key": KEY, **labels}
    body = tool_chat(f"{LOG_TEXT}\n{CONTENT}", user=CONTENT)
    answer = orjson.dumps(completion(choices=[{"message": {"role": "assistant", "content": ANSWER}}]))
    with running.run_proxy(upstream.url, folder, **options) as proxy:
        upstream.respond_with(http_response(answer))
        responses = [proxy.post(body, **headers), proxy.post(body, path="/v1/embeddings", **headers)]
        responses.append(proxy.post(f'{{"broken": "{CONTENT}'.encode(), **headers))
        responses.append(proxy.post(body, **{**headers, "x_clara_mode": CONTENT}))
        responses.append(proxy.post(body, path="/v1/compress", **headers))
        responses.append(proxy.post({"hash": CONTENT}, path="/v1/retrieve", **headers))
        upstream.respond_with(http_response(orjson.dumps({"error": {"message": CONTENT}}), status="500 Oops"))
        responses.append(proxy.post(body, **headers))
        upstream.respond_with(b"HTTP/1.1 " + CONTENT.encode() + b"\r\n\r\n")
        responses.append(proxy.post(body, **headers))
        upstream.reset()
    return responses


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("level", LEVELS)
def test_log_contains_no_client_texts(
    upstream: FaultyUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str], level: str, style: str
) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler()  # also catches the records of other libraries
    root.addHandler(handler)
    before = root.level
    root.setLevel(level.upper())
    try:
        responses = send_requests(upstream, tmp_path, log_level=level, log_format=style)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    stderr = capsys.readouterr().err
    assert {answer.status_code for answer in responses} >= {200, 400, 500, 502}
    for canary in (KEY, LABEL, CONTENT, ANSWER):
        assert canary not in stderr
    lines = [line for line in stderr.splitlines() if "req_" in line]
    logs_every_row = LEVELS.index(level) <= (1 if style == "json" else 0)
    assert len(lines) == (
        0 if level == "error" else len(responses) if logs_every_row else len(select_failures(responses))
    )


def select_failures(responses: list[httpx.Response]) -> list[httpx.Response]:
    return [answer for answer in responses if answer.status_code >= 500]


@pytest.mark.parametrize("style", ["text", "json"])
def test_failures_of_upstream_and_proxy_are_warnings(
    upstream: FaultyUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str], style: str
) -> None:
    """An upstream that fails, is unreachable, or disconnects is a warning; a mistake of the client is not."""
    with running.run_proxy(upstream.url, tmp_path, log_format=style, log_level="warning") as proxy:
        upstream.stream_events(sse_event(completion_chunk("so far")), ending=Connection.reset)
        responses = [proxy.post(short_chat(), x_clara_mode="nonsense"), proxy.post(short_chat(stream=True))]
        for status in ("429 Slow down", "404 Not here", "500 Oops"):
            upstream.respond_with(http_response(b"{}", status=status))
            responses.append(proxy.post(short_chat()))
    with running.run_proxy("http://127.0.0.1:1", tmp_path, log_format=style, log_level="warning") as proxy:
        responses.append(proxy.post(short_chat()))
    stderr = capsys.readouterr().err.splitlines()
    assert [answer.status_code for answer in responses] == [400, 200, 429, 404, 500, 502]
    failed = [responses[1], responses[4], responses[5]]
    assert len(stderr) == len(failed)
    for line, answer in zip(stderr, failed, strict=True):
        assert answer.headers["x-clara-request-id"] in line
        assert "warning" in line.lower()
        assert "gpt-4o" in line
        assert str(answer.status_code) in line


def test_every_request_has_a_log_line(
    upstream: FaultyUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = send_requests(upstream, tmp_path, log_format="json")
    stderr = [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]
    requests = [line for line in stderr if line["message"] == "request"]
    assert [line["status"] for line in requests] == [answer.status_code for answer in responses]
    first = requests[0]
    assert first["id"] == responses[0].headers["x-clara-request-id"]
    assert first["tokens_received"] - first["tokens_sent"] == first["saved_tokens"] > 0
    assert (first["model"], first["path"], first["outcome"]) == ("gpt-4o", "/v1/chat/completions", "ok")
    assert (first["billed_input"], first["level"]) == (40, "info")


def test_log_line_has_the_logged_columns_only() -> None:
    row = apply_bill(
        Row(id="r", at=1.0, path="/v1/" + 500 * "x", session="s", user="u", project="p", key="k", latency_ms=18.183862),
        None,
        None,
    )
    line = build_log_fields(row)
    assert line["latency_ms"] == 18.2
    assert set(line) <= set(LOGGED_COLUMNS)
    assert {"session", "user", "project", "tags", "passages"}.isdisjoint(LOGGED_COLUMNS)
    assert len(str(line["path"])) == 200
    assert "cost" not in line
    assert line["key"] == "k"


@pytest.mark.parametrize(
    ("level", "style", "observers"),
    [("info", "text", 2), ("info", "json", 2), ("debug", "text", 2), ("error", "json", 1), ("error", "text", 1)],
)
async def test_disabled_log_has_no_observer(tmp_path: Path, level: Any, style: Any, observers: int) -> None:
    log_setup.configure_logging(level, style)
    ledger = Ledger("sqlite://")
    async with attach_observers(Settings(log_level=level, log_format=style, data_dir=tmp_path), ledger, None):
        assert len(ledger.observers) == observers
