"""From a request body to the forwarded body: modes, limits, markers, and the ledger row."""

import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.pipeline.compress import MAX_INLINE_CHARS
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import InProcessProxy, SentRequest

LOG = "\n".join(
    f"2024-05-01T10:{line // 60:02d}:{line % 60:02d}Z INFO worker-{line % 7} handled request {line}"
    for line in range(200)
)


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path) as proxy:
        yield proxy


def tool_call(name: str, command: str, output: str, call_id: str = "c") -> list[Json]:
    function = {"name": name, "arguments": orjson.dumps({"command": command}).decode()}
    call = {"id": call_id, "type": "function", "function": function}
    message: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [message, {"role": "tool", "tool_call_id": call_id, "content": output}]


def chat(*messages: Json, model: str = "gpt-4o", **more: Any) -> bytes:
    return orjson.dumps({"model": model, "messages": list(messages), **more})


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def send(proxy: InProcessProxy, plain: bytes, headers: Mapping[str, str] | None = None, **settings: Any) -> SentRequest:
    proxy.settings = proxy.settings.model_copy(update=settings)
    proxy.restart()
    sent = proxy.send(plain, headers)
    assert accounting.find_inconsistencies(sent.row) == []
    return sent


REQUEST = chat(user("Which worker was slow?"), *tool_call("shell", "make logs", LOG))


@pytest.mark.parametrize(
    ("requested_mode", "mode", "engine"),
    [
        ("auto", "extract", "extract"),
        ("extract", "extract", "extract"),
        ("observe", "observe", "none"),
        ("off", "off", "none"),
    ],
)
def test_each_mode_compresses_observes_or_forwards(
    proxy: InProcessProxy, requested_mode: str, mode: str, engine: str
) -> None:
    sent = send(proxy, REQUEST, {"x-clara-mode": requested_mode})
    assert (sent.row.mode_asked, sent.row.mode_used, sent.row.engine) == (requested_mode, mode, engine)
    assert (sent.forwarded == REQUEST) == (engine == "none")
    assert sent.row.tokens_received > get_token_counter("gpt-4o").count(LOG)
    assert (sent.row.would_send is not None) == (requested_mode == "observe")


def test_the_mode_of_the_settings_is_the_default(proxy: InProcessProxy) -> None:
    assert send(proxy, REQUEST, mode="off").row.mode_used == "off"
    assert send(proxy, REQUEST, {"x-clara-mode": "auto"}, mode="off").row.mode_used == "extract"


@pytest.mark.parametrize(("model", "estimated"), [("gpt-4o", False), ("claude-sonnet-4", True), ("None", True)])
def test_estimated_counts_are_marked_as_estimates(proxy: InProcessProxy, model: str, estimated: bool) -> None:
    assert send(proxy, chat(user("hello"), model=model)).row.tokens_estimated == estimated


def test_tools_count_as_input(proxy: InProcessProxy) -> None:
    tools = [{"type": "function", "function": {"name": "shell", "description": "runs a command " * 50}}]
    without_tools = send(proxy, chat(user("hello"))).row
    with_tools = send(proxy, chat(user("hello"), tools=tools)).row
    tool_tokens = get_token_counter("gpt-4o").count(orjson.dumps(tools[0]).decode())
    assert with_tools.tokens_received == without_tools.tokens_received + tool_tokens


def test_a_large_body_is_compressed_like_a_small_one(proxy: InProcessProxy) -> None:
    outputs = [f"run {number}\n{LOG}" for number in range(4)]
    assert sum(map(len, outputs)) > MAX_INLINE_CHARS
    messages = [
        message for number, text in enumerate(outputs) for message in tool_call("shell", "make", text, f"c{number}")
    ]
    large = send(proxy, chat(user("Which worker?"), *messages))
    small = send(proxy, chat(user("Which worker?"), *messages[:2]))
    assert large.message_bytes.startswith(small.message_bytes)
    assert large.row.saved_tokens > 3 * small.row.saved_tokens


def test_outputs_of_protected_tools_are_left_unchanged(proxy: InProcessProxy) -> None:
    sent = send(proxy, REQUEST, protected_tools=("shell",))
    assert (sent.forwarded, sent.context.skip_counts) == (REQUEST, {"too-short": 1, "protected-tool": 1})


def test_history_is_compressed_when_the_context_window_is_small(proxy: InProcessProxy) -> None:
    message = {"role": "assistant", "content": "The wind had turned, and nobody would say when. " * 100}
    messages = [user("Tell me a story."), *[message] * 8, user("Go on.")]
    assert send(proxy, chat(*messages, model="gpt-4o")).row.saved_tokens == 0
    small = send(proxy, chat(*messages, model="gpt-4"))  # a window of 8,192 tokens
    assert small.row.saved_tokens > 0
    assert [small.messages[index] == messages[index] for index in (0, -1)] == [True, True]
    unknown = chat(*messages, model="an-unknown-model")
    assert send(proxy, unknown).row.saved_tokens == 0
    assert send(proxy, unknown, window=4000).row.saved_tokens > 0


def test_markers_name_originals_only_if_they_can_be_fetched(proxy: InProcessProxy) -> None:
    assert b"retrieve" not in send(proxy, REQUEST).forwarded
    sent = send(proxy, REQUEST, {"x-clara-retrieve": "url"})
    (name,) = re.findall(rb"GET /v1/retrieve/([0-9a-f]{16})]", sent.forwarded)
    assert proxy.fetch_original(name.decode()) == LOG


def test_text_that_was_fetched_back_is_left_unchanged(proxy: InProcessProxy) -> None:
    plain = chat(user("Which worker?"), *tool_call("shell", "curl -s localhost:8765/v1/retrieve/0123456789abcdef", LOG))
    sent = send(proxy, plain)
    assert (sent.forwarded, sent.context.skip_counts) == (plain, {"too-short": 1, "expansion": 1})


def test_the_row_lists_every_passage_except_short_ones(proxy: InProcessProxy) -> None:
    plain = chat(
        user(f"Compare:\n<doc>{LOG}</doc>\nand\n```python\n{LOG}\n```\nplease."),
        *tool_call("shell", "make logs", LOG),
        *tool_call("view", "a.py", LOG, "d"),
        *tool_call("shell", "true", "ok", "e"),
    )
    sent = send(proxy, plain, {"x-clara-session": "s", "x-clara-tag-team": "blue"})
    passages = [(entry["kind"], entry["tool"], entry["reason"]) for entry in orjson.loads(sent.row.passages)]
    assert passages == [
        ("block", "", ""),
        ("code", "", "file-read"),
        ("tool", "shell", ""),
        ("tool", "view", "file-read"),
    ]
    assert orjson.loads(sent.row.skipped) == {"file-read": 2, "too-short": 1}
    assert (sent.row.session, orjson.loads(sent.row.tags)) == ("s", {"team": "blue"})


@pytest.mark.parametrize(
    "content",
    ["", "x", "three short words", "word " * 30, "INFO it works\n" * 25, "word\n" * 3000, "<doc>", "\U0001f9ff" * 40],
)
@pytest.mark.parametrize("ratio", ["1", "3", "1000"])
def test_the_row_adds_up_for_tagged_text(proxy: InProcessProxy, content: str, ratio: str) -> None:
    text = f"<clara:compress>{content}</clara:compress>\n<clara:keep>{content}</clara:keep> What? " * 3
    for min_tokens in ("1", "400"):
        sent = send(proxy, chat(user(text)), {"x-clara-ratio": ratio, "x-clara-min-tokens": min_tokens})
        assert "clara:" not in sent.messages[0]["content"]
        after = get_token_counter("gpt-4o").count(sent.messages[0]["content"])
        assert sent.row.saved_tokens == get_token_counter("gpt-4o").count(text) - after > 0


def test_many_small_passages_never_make_a_message_longer(proxy: InProcessProxy) -> None:
    for size in (2, 5, 9, 14):
        rows = [f"row {row}: " + " ".join(f"w{row * size + word}" for word in range(size)) for row in range(60)]
        text = "What is this?\n" + "\n".join(f"x<doc>{row}\n{row}</doc>y" for row in rows)
        plain = chat(user(text))
        sent = send(proxy, plain, {"x-clara-min-tokens": "1", "x-clara-ratio": "1000"})
        before, after = (get_token_counter("gpt-4o").count(content) for content in (text, sent.messages[0]["content"]))
        assert after < before or sent.forwarded == plain
        assert sent.row.saved_tokens == before - after


def test_response_headers_agree_with_the_row(proxy: InProcessProxy) -> None:
    sent = send(proxy, REQUEST)
    headers = {name.decode(): value.decode() for name, value in sent.context.build_response_headers()}
    assert headers["x-clara-mode"] == sent.row.mode_used == "extract"
    assert headers["x-clara-engine"] == sent.row.engine
    assert int(headers["x-clara-tokens-before"]) == sent.row.tokens_received
    assert int(headers["x-clara-tokens-after"]) == sent.row.tokens_sent
    assert int(headers["x-clara-tokens-saved"]) == sent.row.saved_tokens > 0
    assert float(headers["x-clara-ratio"]) == round(sent.row.tokens_received / sent.row.tokens_sent, 2)
    assert headers["x-clara-request-id"] == sent.row.id
    assert headers["x-clara-skipped"] == "too-short=1"
