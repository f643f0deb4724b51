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
    f"2024-05-01T10:{at // 60:02d}:{at % 60:02d}Z INFO worker-{at % 7} handled request {at}" for at in range(200)
)


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path) as made:
        yield made


def called(name: str, command: str, output: str, its_id: str = "c") -> list[Json]:
    function = {"name": name, "arguments": orjson.dumps({"command": command}).decode()}
    call = {"id": its_id, "type": "function", "function": function}
    asked: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [asked, {"role": "tool", "tool_call_id": its_id, "content": output}]


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


ASKED = chat(user("Which worker was slow?"), *called("shell", "make logs", LOG))


@pytest.mark.parametrize(
    ("asked", "used", "engine"),
    [
        ("auto", "extract", "extract"),
        ("extract", "extract", "extract"),
        ("observe", "observe", "none"),
        ("off", "off", "none"),
    ],
)
def test_modes(proxy: InProcessProxy, asked: str, used: str, engine: str) -> None:
    sent = send(proxy, ASKED, {"x-clara-mode": asked})
    assert (sent.row.mode_asked, sent.row.mode_used, sent.row.engine) == (asked, used, engine)
    assert (sent.forwarded == ASKED) == (engine == "none")
    assert sent.row.tokens_received > get_token_counter("gpt-4o").count(LOG)
    assert (sent.row.would_send is not None) == (asked == "observe")


def test_the_mode_of_the_settings_is_the_default(proxy: InProcessProxy) -> None:
    assert send(proxy, ASKED, mode="off").row.mode_used == "off"
    assert send(proxy, ASKED, {"x-clara-mode": "auto"}, mode="off").row.mode_used == "extract"


@pytest.mark.parametrize(("model", "estimated"), [("gpt-4o", False), ("claude-sonnet-4", True), ("None", True)])
def test_an_estimate_is_called_one(proxy: InProcessProxy, model: str, estimated: bool) -> None:
    assert send(proxy, chat(user("hello"), model=model)).row.tokens_estimated == estimated


def test_tools_on_offer_count_as_context(proxy: InProcessProxy) -> None:
    offered = [{"type": "function", "function": {"name": "shell", "description": "runs a command " * 50}}]
    plain = send(proxy, chat(user("hello"))).row
    more = send(proxy, chat(user("hello"), tools=offered)).row
    counted = get_token_counter("gpt-4o").count(orjson.dumps(offered[0]).decode())
    assert more.tokens_received == plain.tokens_received + counted


def test_a_large_body_is_shortened_just_like_a_small_one(proxy: InProcessProxy) -> None:
    outputs = [f"run {number}\n{LOG}" for number in range(4)]
    assert sum(map(len, outputs)) > MAX_INLINE_CHARS
    messages = [
        message for number, text in enumerate(outputs) for message in called("shell", "make", text, f"c{number}")
    ]
    large = send(proxy, chat(user("Which worker?"), *messages))
    small = send(proxy, chat(user("Which worker?"), *messages[:2]))
    assert large.message_bytes.startswith(small.message_bytes)
    assert large.row.saved_tokens > 3 * small.row.saved_tokens


def test_tools_that_are_protected_are_left_alone(proxy: InProcessProxy) -> None:
    sent = send(proxy, ASKED, protected_tools=("shell",))
    assert (sent.forwarded, sent.context.skip_counts) == (ASKED, {"too-short": 1, "protected-tool": 1})


def test_history_is_shortened_when_the_window_of_the_model_asks_for_it(proxy: InProcessProxy) -> None:
    said = {"role": "assistant", "content": "The wind had turned, and nobody would say when. " * 100}
    messages = [user("Tell me a story."), *[said] * 8, user("Go on.")]
    assert send(proxy, chat(*messages, model="gpt-4o")).row.saved_tokens == 0
    small = send(proxy, chat(*messages, model="gpt-4"))  # a window of 8,192 tokens
    assert small.row.saved_tokens > 0
    assert [small.messages[at] == messages[at] for at in (0, -1)] == [True, True]
    unknown = chat(*messages, model="a-model-of-nobody")
    assert send(proxy, unknown).row.saved_tokens == 0
    assert send(proxy, unknown, window=4000).row.saved_tokens > 0


def test_markers_name_originals_for_those_who_can_fetch_them_only(proxy: InProcessProxy) -> None:
    assert b"retrieve" not in send(proxy, ASKED).forwarded
    sent = send(proxy, ASKED, {"x-clara-retrieve": "url"})
    (named,) = re.findall(rb"GET /v1/retrieve/([0-9a-f]{16})]", sent.forwarded)
    assert proxy.fetch_original(named.decode()) == LOG


def test_what_was_fetched_back_is_never_shortened_again(proxy: InProcessProxy) -> None:
    plain = chat(user("Which worker?"), *called("shell", "curl -s localhost:8765/v1/retrieve/0123456789abcdef", LOG))
    sent = send(proxy, plain)
    assert (sent.forwarded, sent.context.skip_counts) == (plain, {"too-short": 1, "expansion": 1})


def test_every_passage_is_written_down_but_the_short_ones(proxy: InProcessProxy) -> None:
    plain = chat(
        user(f"Compare:\n<doc>{LOG}</doc>\nand\n```python\n{LOG}\n```\nplease."),
        *called("shell", "make logs", LOG),
        *called("view", "a.py", LOG, "d"),
        *called("shell", "true", "ok", "e"),
    )
    sent = send(proxy, plain, {"x-clara-session": "s", "x-clara-tag-team": "blue"})
    written = [(one["kind"], one["tool"], one["reason"]) for one in orjson.loads(sent.row.passages)]
    assert written == [
        ("block", "", ""),
        ("code", "", "file-read"),
        ("tool", "shell", ""),
        ("tool", "view", "file-read"),
    ]
    assert orjson.loads(sent.row.skipped) == {"file-read": 2, "too-short": 1}
    assert (sent.row.session, orjson.loads(sent.row.tags)) == ("s", {"team": "blue"})


@pytest.mark.parametrize(
    "filling",
    ["", "x", "three short words", "word " * 30, "INFO it works\n" * 25, "word\n" * 3000, "<doc>", "\U0001f9ff" * 40],
)
@pytest.mark.parametrize("ratio", ["1", "3", "1000"])
def test_whatever_is_tagged_the_row_adds_up(proxy: InProcessProxy, filling: str, ratio: str) -> None:
    text = f"<clara:compress>{filling}</clara:compress>\n<clara:keep>{filling}</clara:keep> What? " * 3
    for least in ("1", "400"):
        sent = send(proxy, chat(user(text)), {"x-clara-ratio": ratio, "x-clara-min-tokens": least})
        assert "clara:" not in sent.messages[0]["content"]
        after = get_token_counter("gpt-4o").count(sent.messages[0]["content"])
        assert sent.row.saved_tokens == get_token_counter("gpt-4o").count(text) - after > 0


def test_many_small_pieces_never_make_a_message_longer(proxy: InProcessProxy) -> None:
    for size in (2, 5, 9, 14):
        rows = [f"row {at}: " + " ".join(f"w{at * size + one}" for one in range(size)) for at in range(60)]
        text = "What is this?\n" + "\n".join(f"x<doc>{row}\n{row}</doc>y" for row in rows)
        plain = chat(user(text))
        sent = send(proxy, plain, {"x-clara-min-tokens": "1", "x-clara-ratio": "1000"})
        before, after = (get_token_counter("gpt-4o").count(one) for one in (text, sent.messages[0]["content"]))
        assert after < before or sent.forwarded == plain
        assert sent.row.saved_tokens == before - after


def test_response_headers_say_what_the_row_says(proxy: InProcessProxy) -> None:
    sent = send(proxy, ASKED)
    told = {name.decode(): value.decode() for name, value in sent.context.build_response_headers()}
    assert told["x-clara-mode"] == sent.row.mode_used == "extract"
    assert told["x-clara-engine"] == sent.row.engine
    assert int(told["x-clara-tokens-before"]) == sent.row.tokens_received
    assert int(told["x-clara-tokens-after"]) == sent.row.tokens_sent
    assert int(told["x-clara-tokens-saved"]) == sent.row.saved_tokens > 0
    assert float(told["x-clara-ratio"]) == round(sent.row.tokens_received / sent.row.tokens_sent, 2)
    assert told["x-clara-request-id"] == sent.row.id
    assert told["x-clara-skipped"] == "too-short=1"
